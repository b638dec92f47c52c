//! A model and its forward pass.

use crate::{Error, KvCache, Tokenizer};
use std::path::Path;
use std::sync::Arc;
use tandem_speculation::TokenId;

/// How to load a model.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Compute threads; `None` takes what the machine has.
    pub threads: Option<usize>,
}

/// Facts about a loaded model.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// From the file's metadata, else the file's name.
    pub name: String,
    /// As in the file: `qwen2`, `llama`.
    pub architecture: String,
    /// Tokens in the vocabulary; every id is below it and every row of logits has this length.
    pub vocab: usize,
    /// Tokens of a context at most.
    pub max_context: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Size of the file.
    pub file_bytes: u64,
    /// What computes, for people: `CPU (AVX2)`.
    pub device: String,
}

/// Weights and tokenizer; immutable, share it in an `Arc`.
pub struct Model {
    info: ModelInfo,
    tokenizer: Arc<Tokenizer>,
}

/// Which positions of a segment need logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// None: a part of a prompt.
    None,
    /// Only after the last token.
    Last,
    /// After each token.
    All,
}

/// New tokens of one sequence in a [`Model::forward`].
#[derive(Debug)]
pub struct Segment<'a> {
    /// The sequence; the tokens are appended to it.
    pub cache: &'a mut KvCache,
    /// At least one token.
    pub tokens: &'a [TokenId],
    /// Which logits are wanted.
    pub logits: Wanted,
}

/// Rows of logits: for each segment in order, for each wanted position in order.
pub struct Logits {
    values: Vec<f32>,
    vocab: usize,
}

impl Logits {
    /// How many rows there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.values.len() / self.vocab
    }

    /// Row `i`: one logit for each id of the vocabulary (padding of the checkpoint is cut off).
    ///
    /// # Panics
    /// If there is no such row.
    #[must_use]
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.vocab..(i + 1) * self.vocab]
    }

    /// Row `i`, to be processed in place.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        &mut self.values[i * self.vocab..(i + 1) * self.vocab]
    }
}

impl Model {
    /// Loads a GGUF file.
    ///
    /// # Errors
    /// If the file cannot be read, is no usable GGUF, or of an unsupported architecture.
    pub fn load(_path: &Path, _options: &LoadOptions) -> Result<Self, Error> {
        Err(Error::Usage("not yet"))
    }

    /// Facts about the model.
    #[must_use]
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The model's tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// An empty cache for `capacity` tokens (at most the model's context). Memory is taken only as
    /// tokens come.
    ///
    /// # Errors
    /// If `capacity` is 0 or more than the model's context.
    pub fn new_cache(&self, _capacity: usize) -> Result<KvCache, Error> {
        Err(Error::Usage("not yet"))
    }

    /// Bytes of KV cache that one token takes.
    #[must_use]
    pub fn cache_bytes_per_token(&self) -> usize {
        0
    }

    /// One forward pass over new tokens of several sequences at once (a ragged batch). Blocks the
    /// calling thread; appends the tokens to the caches. On an error no cache has grown.
    ///
    /// # Errors
    /// If a segment is empty or does not fit its cache, or an id is outside the vocabulary.
    pub fn forward(&self, _segments: &mut [Segment<'_>]) -> Result<Logits, Error> {
        Err(Error::Usage("not yet"))
    }
}
