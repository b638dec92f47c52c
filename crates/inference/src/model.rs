//! A model and its forward pass.

use crate::cpu::CpuModel;
use crate::error::plain;
use crate::gguf::{Gguf, Shape};
use crate::tensor::TensorModel;
use crate::{Error, KvCache, Tokenizer, cache, tokenizer};
use candle_core::Device;
use std::fs::File;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tandem_kernels::KvFormat;
use tandem_speculation::TokenId;

/// How to load a model.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Compute threads; `None` takes what the machine has.
    pub threads: Option<usize>,
    /// What computes.
    pub device: DeviceChoice,
    /// How the CPU keeps keys and values. A GPU keeps them as they are computed, and takes no `Q8`.
    pub kv: KvFormat,
}

/// What computes a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The GPU when this build has support for one and it can hold the model, else the CPU.
    #[default]
    Auto,
    /// The CPU kernels.
    Cpu,
    /// The GPU; an error without one.
    Gpu,
    /// The GPU's code on the CPU: slow, for tests and comparisons.
    Reference,
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "gpu" => Ok(Self::Gpu),
            "reference" => Ok(Self::Reference),
            _ => Err(format!("`{text}` is no device; choose auto, cpu or gpu")),
        }
    }
}

/// Facts about a loaded model.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// The file's name without its ending and part: what the model is called everywhere.
    pub name: String,
    /// As in the file: `qwen2`, `qwen3`, `llama`.
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
    /// A row's logits are the same to the bit whatever rows are computed beside it. Speculation draws from
    /// exactly the verifier's distribution only where that holds: how many rows there are follows from
    /// what was drafted.
    pub batch_invariant: bool,
}

impl ModelInfo {
    fn of(
        file: &Gguf,
        shape: &Shape,
        tokenizer: &Tokenizer,
        (device, batch_invariant): (&str, bool),
    ) -> Self {
        Self {
            name: file.name(),
            architecture: shape.architecture.clone(),
            vocab: tokenizer.vocab(),
            max_context: shape.max_context,
            layers: shape.layers,
            file_bytes: file.file_bytes,
            device: device.to_owned(),
            batch_invariant,
        }
    }
}

/// Weights and tokenizer; immutable, share it in an `Arc`.
pub struct Model {
    /// Tells caches of different models apart.
    id: usize,
    info: ModelInfo,
    tokenizer: Arc<Tokenizer>,
    cache_bytes_per_token: usize,
    backend: Backend,
    /// Tells other programs that the files are in use.
    _files: Vec<File>,
}

enum Backend {
    Cpu(CpuModel),
    Tensor(TensorModel),
}

impl Backend {
    fn load(
        file: &Gguf,
        shape: &Shape,
        vocab: usize,
        options: &LoadOptions,
    ) -> Result<Self, Error> {
        let tensor = |device| {
            if options.kv == KvFormat::Q8 {
                return Err(Error::Usage(
                    "keys and values in 8 bits (q8) are for the CPU; a GPU keeps them as they are \
                     computed: choose the CPU, or another format",
                ));
            }
            TensorModel::load(file, shape.clone(), vocab, device)
        };
        let gpu = match options.device {
            DeviceChoice::Auto | DeviceChoice::Gpu => gpu(),
            DeviceChoice::Reference => return tensor(Device::Cpu).map(Self::Tensor),
            DeviceChoice::Cpu => Err(String::new()),
        };
        match (gpu.map(tensor), options.device) {
            (Ok(Ok(model)), _) => return Ok(Self::Tensor(model)),
            (Ok(Err(e)), DeviceChoice::Gpu) | (Ok(Err(e @ Error::Usage(_))), _) => return Err(e),
            (Err(reason), DeviceChoice::Gpu) => return Err(Error::NoGpu { reason }),
            (Ok(Err(e)), _) => tracing::warn!("the GPU cannot take the model, the CPU does: {e}"),
            (Err(reason), _) => tracing::debug!("no GPU: {reason}"),
        }
        CpuModel::load(file, shape.clone(), vocab, options.threads, options.kv).map(Self::Cpu)
    }
}

/// The GPU that this build supports, or why there is none.
fn gpu() -> Result<Device, String> {
    let open = || {
        if cfg!(feature = "cuda") {
            Device::new_cuda(0).map_err(|e| plain(&e))
        } else if cfg!(feature = "metal") {
            Device::new_metal(0).map_err(|e| plain(&e))
        } else {
            Err("this build has no support for one; build with `--features cuda` or `metal`".into())
        }
    };
    // A driver that does not work makes its library panic. (One that is missing keeps a CUDA build from
    // starting at all: it is linked.)
    catch_unwind(AssertUnwindSafe(open))
        .unwrap_or_else(|_| Err("the GPU's driver cannot be loaded".into()))
}

/// Which positions of a segment need logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// None: a part of a prompt.
    None,
    /// Only after the last token.
    Last,
    /// After each token.
    All,
    /// After each token from this one on, and after each of these alternatives: other tokens for the
    /// place that is so many tokens behind the segment's first, in order of their places. An
    /// alternative sees the text before its place and itself, no token sees it, and no cache keeps it.
    /// Its logits come before those of the token whose place it takes.
    From(usize, &'a [(usize, TokenId)]),
}

impl<'a> Wanted<'a> {
    pub(crate) fn alternatives(self) -> &'a [(usize, TokenId)] {
        match self {
            Self::From(_, alternatives) => alternatives,
            Self::None | Self::Last | Self::All => &[],
        }
    }
}

/// New tokens of one sequence in a [`Model::forward`].
#[derive(Debug)]
pub struct Segment<'a> {
    /// The sequence; the tokens are appended to it.
    pub cache: &'a mut KvCache,
    /// At least one token.
    pub tokens: &'a [TokenId],
    /// Which logits are wanted.
    pub logits: Wanted<'a>,
}

impl Segment<'_> {
    /// Places of the cache that computing it takes, the last of which may be an alternative's.
    pub(crate) fn places(&self) -> usize {
        let last = self.logits.alternatives().last().map_or(0, |(at, _)| at + 1);
        self.tokens.len().max(last)
    }

    fn check(&self, model: &Model) -> Result<(), Error> {
        if self.tokens.is_empty() {
            return Err(Error::Usage("a segment needs at least one token"));
        }
        if self.cache.model != model.id {
            return Err(Error::Usage("a KV cache belongs to the model that made it"));
        }
        let alternatives = self.logits.alternatives();
        let ends = alternatives.last().is_none_or(|(at, _)| *at <= self.tokens.len());
        if !ends || !alternatives.is_sorted_by_key(|(at, _)| *at) {
            return Err(Error::Usage(
                "alternatives are in order, none behind the end of its draft",
            ));
        }
        let vocab = model.info.vocab;
        let mut ids = self.tokens.iter().chain(alternatives.iter().map(|(_, id)| id));
        if let Some(t) = ids.find(|t| t.index() >= vocab) {
            return Err(Error::OutsideVocabulary { id: t.0, vocab });
        }
        self.cache.check_room(self.places())
    }
}

/// Rows computed together at most: bounds the memory of a long prompt's activations.
const MAX_ROWS: usize = 256;

/// Rows of one segment within one pass over at most [`MAX_ROWS`] rows: some of its tokens, or one
/// alternative. The parts of a segment are computed in order, and an alternative before the token
/// whose place it takes: so that token's keys and values are written over its own.
pub(crate) struct Part {
    pub segment: usize,
    /// Which tokens, or which alternative.
    rows: Range<usize>,
    pub alternative: bool,
    /// Tokens of the text before it.
    pub past: usize,
}

impl Part {
    pub(crate) fn rows(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn tokens<'a>(&self, segment: &'a Segment<'_>) -> &'a [TokenId] {
        if self.alternative {
            std::slice::from_ref(&segment.logits.alternatives()[self.rows.start].1)
        } else {
            &segment.tokens[self.rows.clone()]
        }
    }

    /// The first row of the part whose logits are wanted; they are wanted from there to its end.
    pub(crate) fn first_wanted(&self, segment: &Segment<'_>) -> usize {
        match segment.logits {
            Wanted::All => 0,
            Wanted::From(..) if self.alternative => 0,
            Wanted::From(first, _) => first.saturating_sub(self.rows.start).min(self.rows()),
            Wanted::Last if self.rows.end == segment.tokens.len() => self.rows() - 1,
            Wanted::None | Wanted::Last => self.rows(),
        }
    }
}

/// The rows of all segments in order, cut into passes.
pub(crate) fn passes(segments: &[Segment<'_>]) -> Vec<Vec<Part>> {
    let mut passes: Vec<Vec<Part>> = Vec::new();
    let mut free = 0;
    let mut add = |segment, rows: Range<usize>, alternative, mut past| {
        let mut from = rows.start;
        while from < rows.end {
            if free == 0 {
                passes.push(Vec::new());
                free = MAX_ROWS;
            }
            let to = rows.end.min(from + free);
            if let Some(pass) = passes.last_mut() {
                pass.push(Part { segment, rows: from..to, alternative, past });
            }
            (free, past, from) = (free - (to - from), past + (to - from), to);
        }
    };
    for (index, segment) in segments.iter().enumerate() {
        let (past, mut from) = (segment.cache.len(), 0);
        for (i, &(at, _)) in segment.logits.alternatives().iter().enumerate() {
            add(index, from..at, false, past + from);
            add(index, i..i + 1, true, past + at);
            from = at;
        }
        add(index, from..segment.tokens.len(), false, past + from);
    }
    passes
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
    /// If the file cannot be read, is no usable GGUF, or of an unsupported architecture; if a GPU
    /// was asked for and there is none.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self, Error> {
        let begun = Instant::now();
        let file = Gguf::open(path)?;
        let header = begun.elapsed();
        let tokenizer = Arc::new(Tokenizer::from_gguf(&file)?);
        let vocabulary = begun.elapsed() - header;
        let model = Self::of(file, tokenizer, options)?;
        let weights = begun.elapsed() - header - vocabulary;
        let [header, vocabulary, weights] = [header, vocabulary, weights].map(|t| t.as_millis());
        tracing::info!(
            "{} loaded: header {header} ms, tokenizer {vocabulary} ms, weights {weights} ms",
            model.info.name
        );
        Ok(model)
    }

    /// Loads a GGUF file whose tokenizer is here already, so that only the weights take time and
    /// memory.
    ///
    /// # Errors
    /// As [`Self::load`], and if the file has another tokenizer.
    pub fn load_with(
        path: &Path,
        tokenizer: &Arc<Tokenizer>,
        options: &LoadOptions,
    ) -> Result<Self, Error> {
        let file = Gguf::open(path)?;
        if tokenizer::fingerprint(&file)? != tokenizer.fingerprint() {
            return Err(file.bad("it has another tokenizer than before; start the program again"));
        }
        Self::of(file, Arc::clone(tokenizer), options)
    }

    /// What a file says of its model, and its tokenizer: all but the weights. Nothing computes it.
    ///
    /// # Errors
    /// If the file cannot be read, is no usable GGUF, or of an unsupported architecture.
    pub fn outline(path: &Path) -> Result<(ModelInfo, Arc<Tokenizer>), Error> {
        let file = Gguf::open(path)?;
        let tokenizer = Arc::new(Tokenizer::from_gguf(&file)?);
        Ok((ModelInfo::of(&file, &file.shape()?, &tokenizer, ("nothing", true)), tokenizer))
    }

    fn of(file: Gguf, tokenizer: Arc<Tokenizer>, options: &LoadOptions) -> Result<Self, Error> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let shape = file.shape()?;
        file.check_tensors(&shape)?;
        let backend = Backend::load(&file, &shape, tokenizer.vocab(), options)?;
        let kv = match &backend {
            Backend::Cpu(_) => options.kv,
            Backend::Tensor(_) => KvFormat::F32,
        };
        let computes = match &backend {
            Backend::Cpu(model) => (model.device(), CpuModel::BATCH_INVARIANT),
            Backend::Tensor(model) => (model.device(), TensorModel::BATCH_INVARIANT),
        };
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            cache_bytes_per_token: shape.cache_bytes_per_token(kv),
            info: ModelInfo::of(&file, &shape, &tokenizer, computes),
            tokenizer,
            backend,
            _files: file.into_locks(),
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
        match &self.backend {
            Backend::Cpu(model) => Ok(model.new_cache(self.id, capacity)),
            Backend::Tensor(model) => Ok(model.new_cache(self.id, capacity)),
        }
    }

    /// Bytes of KV cache that one token takes.
    #[must_use]
    pub fn cache_bytes_per_token(&self) -> usize {
        self.cache_bytes_per_token
    }

    /// Bytes of memory that a cache of `capacity` tokens really takes once it has held `tokens` of them
    /// (while a GPU's cache grows, its old memory is there for a moment too).
    #[must_use]
    pub fn cache_bytes(&self, tokens: usize, capacity: usize) -> usize {
        let tokens = match &self.backend {
            Backend::Cpu(_) => tokens,
            Backend::Tensor(_) => cache::room(tokens, capacity),
        };
        tokens.saturating_mul(self.cache_bytes_per_token)
    }

    /// One forward pass over new tokens of several sequences at once (a ragged batch). Blocks the
    /// calling thread; appends the tokens to the caches. On an error no cache has grown.
    ///
    /// # Errors
    /// If a segment is empty or does not fit its cache, a cache is another model's, an id is
    /// outside the vocabulary, alternatives are out of order, there is no memory for keys and values, or a
    /// GPU fails.
    pub fn forward(&self, segments: &mut [Segment<'_>]) -> Result<Logits, Error> {
        for segment in &*segments {
            segment.check(self)?;
        }
        for segment in &mut *segments {
            let places = segment.places();
            segment.cache.reserve(places)?;
        }
        match &self.backend {
            Backend::Cpu(model) => Ok(model.forward(segments)),
            Backend::Tensor(model) => Ok(model.forward(segments)?),
        }
    }
}
