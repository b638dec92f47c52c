//! Language models from GGUF files: forward pass, KV cache, tokenizer, chat template, model store.
//!
//! **Invariant: knows no network protocol between device and edge.** A [`Model`] is immutable and
//! shared; all state of a sequence is in its [`KvCache`]. On the CPU kernels the results of one row do
//! not depend on what else is computed in the same call (*batch-invariant*), so greedy text is the
//! same whatever the draft length or the load. On a GPU that holds up to rounding (see `tensor.rs`).
//!
//! Model files are hostile until checked: nothing in one can make a call panic or reserve memory
//! beyond a small multiple of the file.

mod cache;
mod cpu;
mod error;
mod facts;
mod gguf;
mod model;
pub mod store;
mod template;
mod tensor;
mod tokenizer;

pub use cache::KvCache;
pub use error::Error;
pub use facts::{Facts, available_memory, memory};
pub use model::{DeviceChoice, LoadOptions, Logits, Model, ModelInfo, Segment, Wanted};
pub use tandem_kernels::KvFormat;
pub use tokenizer::{ChatMessage, Conversation, Detokenizer, Role, Tokenizer};

#[cfg(test)]
mod tests {
    /// Sizes of hostile files are multiplied in this crate.
    #[test]
    fn arithmetic_that_overflows_is_found_here() {
        let most = std::hint::black_box(u64::MAX);
        assert!(std::panic::catch_unwind(|| std::hint::black_box(most + 1)).is_err());
    }
}
