//! llama.cpp, with all cores and otherwise its defaults: flash attention where it thinks best, keys
//! and values as 16 bits (ours have 32), weights repacked for the processor.

use super::{Engine, Pass};
use crate::facts;
use anyhow::{Context, Result};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Instant;
use tandem_inference::Wanted;
use tandem_speculation::TokenId;

/// The crate's version and the compiler flags that llama.cpp was built with.
pub fn version() -> Option<String> {
    let version = facts::crate_version("llama-cpp-sys-2")?;
    let flags = option_env!("CMAKE_CXX_FLAGS").unwrap_or("the crate's own flags");
    Some(format!("llama-cpp-sys-2 {version}, {flags}"))
}

/// A loaded model.
pub struct Llama {
    backend: LlamaBackend,
    model: LlamaModel,
}

/// A model with a context.
struct After<'a> {
    context: LlamaContext<'a>,
    past: usize,
}

impl Llama {
    /// Always some: this build has llama.cpp.
    pub fn load(file: &Path) -> Result<Option<Self>> {
        let mut backend = LlamaBackend::init()?;
        backend.void_logs();
        let params = LlamaModelParams::default().with_n_gpu_layers(0);
        let model = LlamaModel::load_from_file(&backend, file, &params)?;
        Ok(Some(Self { backend, model }))
    }

    /// Computes the context; `room` tokens more will fit.
    pub fn after<'a>(&'a self, context: &[TokenId], room: usize) -> Result<Box<dyn Engine + 'a>> {
        let threads = facts::cores().try_into()?;
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new((context.len() + room).try_into()?))
            .with_n_threads(threads)
            .with_n_threads_batch(threads);
        let chunk = params.n_batch() as usize;
        let llama = self.model.new_context(&self.backend, params)?;
        let mut after = After { context: llama, past: 0 };
        for tokens in context.chunks(chunk) {
            after.decode(tokens, Wanted::Last)?;
            after.past += tokens.len();
        }
        Ok(Box::new(after))
    }
}

impl After<'_> {
    /// Milliseconds of appending the tokens.
    fn decode(&mut self, tokens: &[TokenId], logits: Wanted) -> Result<f64> {
        let mut batch = LlamaBatch::new(tokens.len(), 1);
        for (i, token) in tokens.iter().enumerate() {
            let wanted = logits == Wanted::All || i + 1 == tokens.len();
            let (token, place) = (LlamaToken(token.0.try_into()?), self.past + i);
            batch.add(token, place.try_into()?, &[0], wanted)?;
        }
        let start = Instant::now();
        self.context.decode(&mut batch)?;
        self.context.synchronize();
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }
}

impl Engine for After<'_> {
    fn pass(&mut self, tokens: &[TokenId], logits: Wanted) -> Result<Pass> {
        let ms = self.decode(tokens, logits)?;
        let last = self.context.get_logits_ith(-1).to_vec();
        let past = self.past.try_into()?;
        self.context.kv_cache_seq_rm(0, Some(past), None).context("cannot roll back")?;
        Ok(Pass { ms, last })
    }
}
