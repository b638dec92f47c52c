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
    /// Weights in a format that is not computed. The file may be whole.
    #[error(
        "{path} has weights in the format {format} ({tensor}), which is not supported here; supported \
         are {supported}. Choose a file of this model in one of these, such as Q4_K_M or Q8_0; \
         llama.cpp may compute this one"
    )]
    Quantisation {
        /// Which file.
        path: PathBuf,
        /// The first tensor that is in it.
        tensor: String,
        /// As it is called.
        format: String,
        /// What would work.
        supported: &'static str,
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
    #[error("the model failed to compute: {0}; try again, or load it on the CPU")]
    Compute(String),
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        tracing::debug!("the tensor library failed: {error}");
        Self::Compute(plain(&error))
    }
}

/// What the tensor library says, without the places in its code that it adds where `RUST_BACKTRACE` is
/// set.
pub(crate) fn plain(error: &candle_core::Error) -> String {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => plain(inner),
        candle_core::Error::WithPath { inner, .. } => plain(inner),
        candle_core::Error::Context { inner, context } => format!("{context}: {}", plain(inner)),
        other => {
            let text = other.to_string();
            text.lines().next().unwrap_or_default().to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_tensor_library_has_no_backtrace() {
        let inner = candle_core::Error::Msg("no memory".into());
        let traced = candle_core::Error::WithBacktrace {
            inner: Box::new(inner.context("a product")),
            backtrace: Box::new(std::backtrace::Backtrace::force_capture()),
        };
        assert!(traced.to_string().contains("plain") || traced.to_string().lines().count() > 2);
        let text = Error::from(traced).to_string();
        assert!(text.contains("a product: no memory") && text.lines().count() == 1, "{text}");
    }
}
