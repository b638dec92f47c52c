//! What a model file says of itself, read without its weights, and what follows from that: which
//! models go together, and how much memory one takes.

use crate::gguf::{Gguf, parts};
use crate::{Error, Tokenizer, tokenizer};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::SystemTime;
use tandem_kernels::KvFormat;

/// Activations, tables and code beside weights and KV cache.
const WORKING_BYTES: u64 = 96 << 20;

/// Facts about a model file.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// The file's name without its ending.
    pub name: String,
    /// As in the file: `qwen2`, `qwen3`, `llama`.
    pub architecture: String,
    /// Weights.
    pub parameters: u64,
    /// What people call the formats of the weights: `Q4_K_M`.
    pub quantisation: String,
    /// SHA-256 over the whole vocabulary, merges and special tokens.
    pub tokenizer: [u8; 32],
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Tokens of a context at most.
    pub max_context: usize,
    /// Bytes of KV cache that one token takes.
    pub cache_bytes_per_token: u64,
    /// Size of the file.
    pub file_bytes: u64,
}

impl Facts {
    /// Reads a file's header. The same file is read once in a program's life.
    ///
    /// # Errors
    /// If the file cannot be read, is cut off, is no usable GGUF, or of an unsupported architecture.
    pub fn read(path: &Path) -> Result<Self, Error> {
        type Seen = Vec<Option<(u64, SystemTime)>>;
        type Known = HashMap<PathBuf, (Seen, Facts)>;
        static KNOWN: OnceLock<Mutex<Known>> = OnceLock::new();
        let known = || {
            let known = KNOWN.get_or_init(Mutex::default);
            known.lock().unwrap_or_else(PoisonError::into_inner)
        };
        // Of all its parts: one that comes, goes or changes makes it another model.
        let seen = |path: &PathBuf| {
            let meta = std::fs::metadata(path).ok()?;
            Some((meta.len(), meta.modified().ok()?))
        };
        let seen: Seen = parts::files_of(path).iter().map(seen).collect();
        if let Some((before, facts)) = known().get(path)
            && *before == seen
            && seen.iter().all(Option::is_some)
        {
            return Ok(facts.clone());
        }
        let facts = Self::of(&Gguf::open(path)?)?;
        known().insert(path.to_owned(), (seen, facts.clone()));
        Ok(facts)
    }

    /// Reads all that is needed before the weights: header, tokenizer and chat template.
    ///
    /// # Errors
    /// As [`Self::read`], and if the model cannot be chatted with.
    pub fn read_whole(path: &Path) -> Result<Self, Error> {
        let file = Gguf::open(path)?;
        let facts = Self::of(&file)?;
        if !Tokenizer::from_gguf(&file)?.has_template() {
            return Err(file.bad("it has no chat template; choose an instruct model"));
        }
        Ok(facts)
    }

    fn of(file: &Gguf) -> Result<Self, Error> {
        let shape = file.shape()?;
        let (parameters, quantisation) = file.check_tensors(&shape)?;
        let vocab = tokenizer::size(file)?;
        Ok(Self {
            name: file.name(),
            parameters,
            quantisation,
            tokenizer: tokenizer::fingerprint(file)?,
            vocab,
            max_context: shape.max_context,
            cache_bytes_per_token: shape.cache_bytes_per_token(KvFormat::default()) as u64,
            file_bytes: file.file_bytes,
            architecture: shape.architecture,
        })
    }

    /// Bytes of memory that the model takes with one conversation of `context` tokens; an estimate.
    #[must_use]
    pub fn memory(&self, context: usize) -> u64 {
        memory(self.file_bytes, self.cache_bytes_per_token, context.min(self.max_context))
    }
}

/// Bytes of memory for weights of `file_bytes` and a KV cache of `context` tokens; an estimate.
#[must_use]
pub fn memory(file_bytes: u64, cache_bytes_per_token: u64, context: usize) -> u64 {
    let cache = cache_bytes_per_token.saturating_mul(context as u64);
    file_bytes.saturating_add(cache).saturating_add(WORKING_BYTES)
}

/// Bytes of memory that programs can still take; `None` where the system does not say.
#[must_use]
pub fn available_memory() -> Option<u64> {
    // Linux and Android. Elsewhere the figure takes a system call that this crate does not make.
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib << 10)
}
