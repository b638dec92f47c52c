//! A model and its forward pass.

use crate::cpu::CpuModel;
use crate::gguf::Gguf;
use crate::{Error, KvCache, Tokenizer};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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
    /// The file's name without its ending: what the model is called everywhere.
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
    /// Tells caches of different models apart.
    id: usize,
    info: ModelInfo,
    tokenizer: Arc<Tokenizer>,
    cpu: CpuModel,
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
    pub(crate) fn new(values: Vec<f32>, vocab: usize) -> Self {
        Self { values, vocab }
    }

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
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self, Error> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let file = Gguf::open(path)?;
        let shape = file.shape()?;
        let tokenizer = Tokenizer::from_gguf(&file)?;
        let cpu = CpuModel::load(&file, shape.clone(), tokenizer.vocab(), options.threads)?;
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            info: ModelInfo {
                name: stem.unwrap_or_default(),
                architecture: shape.architecture,
                vocab: tokenizer.vocab(),
                max_context: shape.max_context,
                layers: shape.layers,
                file_bytes: file.file_bytes,
                device: cpu.device().to_owned(),
            },
            tokenizer: Arc::new(tokenizer),
            cpu,
        })
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
    pub fn new_cache(&self, capacity: usize) -> Result<KvCache, Error> {
        if capacity == 0 || capacity > self.info.max_context {
            let capacity_of_model = self.info.max_context;
            return Err(Error::ContextFull { wanted: capacity, capacity: capacity_of_model });
        }
        Ok(self.cpu.new_cache(self.id, capacity))
    }

    /// Bytes of KV cache that one token takes.
    #[must_use]
    pub fn cache_bytes_per_token(&self) -> usize {
        self.cpu.cache_bytes_per_token()
    }

    /// One forward pass over new tokens of several sequences at once (a ragged batch). Blocks the
    /// calling thread; appends the tokens to the caches. On an error no cache has grown.
    ///
    /// # Errors
    /// If a segment is empty or does not fit its cache, a cache is another model's, or an id is
    /// outside the vocabulary.
    pub fn forward(&self, segments: &mut [Segment<'_>]) -> Result<Logits, Error> {
        for segment in &*segments {
            if segment.tokens.is_empty() {
                return Err(Error::Usage("a segment needs at least one token"));
            }
            if segment.cache.model != self.id {
                return Err(Error::Usage("a KV cache belongs to the model that made it"));
            }
            if let Some(t) = segment.tokens.iter().find(|t| t.index() >= self.info.vocab) {
                return Err(Error::OutsideVocabulary { id: t.0, vocab: self.info.vocab });
            }
            segment.cache.check_room(segment.tokens.len())?;
        }
        Ok(self.cpu.forward(segments))
    }
}
