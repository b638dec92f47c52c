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
mod kernels;
mod model;
pub mod store;
mod template;
mod tensor;
mod tokenizer;

pub use cache::KvCache;
pub use error::Error;
pub use facts::{Facts, available_memory, memory};
pub use kernels::KvFormat;
pub use model::{DeviceChoice, LoadOptions, Logits, Model, ModelInfo, Segment, Wanted};
pub use tokenizer::{ChatMessage, Detokenizer, Role, Tokenizer};
