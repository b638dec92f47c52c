//! CPU kernels: quantised matrix products and attention.
//!
//! **Batch-invariant**: what is computed for one row of activations is the same sequence of
//! floating-point operations whether the row comes alone or with others. The kernels unpack a block
//! of quantised weights once and multiply it with several rows; each row has its own accumulator,
//! which sees its terms in the order of the blocks, always.
//!
//! Activations are quantised to 8 bits per row and block (as in ggml), so the inner loop is integer
//! multiply-add. `avx512.rs`, `avx2.rs` or `neon.rs` is chosen when the machine has what it needs, at
//! run time; otherwise `portable.rs`.
//!
//! **Invariant: nothing outside can call a kernel wrongly.** An [`Isa`] comes from detection alone, a
//! [`Matrix`] knows for which one its weights are ordered, and every public function checks the sizes that
//! it is given, whatever it is given. Inside, slices are bounds-checked, and index arithmetic is not
//! checked for overflow: it is on sizes that have passed the border. Nothing here reads a file.

mod attention;
#[cfg(target_arch = "x86_64")]
mod attention_avx2;
#[cfg(target_arch = "aarch64")]
mod attention_neon;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod formats;
mod history;
mod isa;
mod matrix;
mod memory;
#[cfg(target_arch = "aarch64")]
mod neon;
mod packed;
mod portable;
mod product;
mod quantise;
mod rows;
mod silu;

pub use attention::attend;
pub use history::{History, KvFormat};
pub use isa::Isa;
pub use matrix::{Kind, Matrix};
pub use product::matmul;
pub use quantise::Activations;
pub use rows::{add, add_to_each, norm, rotate};
pub use silu::silu_times;

/// Values that are worth another thread, in work that goes row by row or block by block.
const TASK_VALUES: usize = 16_384;
