//! What can go wrong with a model.

use std::path::PathBuf;
use thiserror::Error;

/// Why a model cannot be loaded or run. The text says what happened and what to do next.
#[derive(Debug, Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the model file {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no GGUF, or a broken one.
    #[error("{path} is not a usable GGUF model: {reason}")]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A model family that is not built in.
    #[error(
        "{path} holds a model of the architecture `{architecture}`, which is not supported; \
         supported are {supported}"
    )]
    Architecture {
        /// Which file.
        path: PathBuf,
        /// As the file says.
        architecture: String,
        /// What would work.
        supported: &'static str,
    },
    /// A GPU was asked for.
    #[error("there is no GPU to compute on: {reason}; or choose the CPU")]
    NoGpu {
        /// What is missing.
        reason: String,
    },
    /// Text that cannot be encoded, a chat template that fails.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// More tokens than the cache or the model has room for.
    #[error("{wanted} tokens do not fit into the context of {capacity}")]
    ContextFull {
        /// Tokens that would be in the cache.
        wanted: usize,
        /// Room.
        capacity: usize,
    },
    /// The system gives no memory for a KV cache.
    #[error(
        "there is no memory for keys and values: {0}; a smaller context or a smaller model helps"
    )]
    Memory(std::io::Error),
    /// A token id outside the vocabulary.
    #[error("token {id} is outside the vocabulary of {vocab}")]
    OutsideVocabulary {
        /// The id.
        id: u32,
        /// The vocabulary.
        vocab: usize,
    },
    /// A call that makes no sense, such as an empty segment.
    #[error("{0}")]
    Usage(&'static str),
    /// The tensor library failed (memory, device).
    #[error("the model failed to compute: {0}")]
    Compute(#[from] candle_core::Error),
}
