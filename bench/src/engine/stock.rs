//! candle-transformers' quantised Qwen2, as it comes.
//!
//! It cannot roll back, so the context is computed again, outside the timed part, before each pass.
//! It gives logits of the last row only, whatever is wanted: its passes with all logits are cheaper
//! than the other engines' by the output layer of all rows but one.

use super::{Engine, Pass};
use anyhow::Result;
use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_qwen2::ModelWeights;
use std::fs::File;
use std::path::Path;
use std::time::Instant;
use tandem_inference::{ModelInfo, Wanted};
use tandem_speculation::TokenId;

/// A loaded model.
pub struct Stock(ModelWeights);

/// A model with a context to be computed.
pub struct After<'a> {
    model: &'a mut ModelWeights,
    context: &'a [TokenId],
}

impl Stock {
    /// `None` for an architecture that is not measured.
    pub fn load(file: &Path, info: &ModelInfo) -> Result<Option<Self>> {
        if info.architecture != "qwen2" {
            return Ok(None);
        }
        let mut file = File::open(file)?;
        let content = Content::read(&mut file)?;
        Ok(Some(Self(ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?)))
    }

    /// For passes after `context`.
    pub fn after<'a>(&'a mut self, context: &'a [TokenId]) -> After<'a> {
        After { model: &mut self.0, context }
    }
}

impl After<'_> {
    fn forward(&mut self, tokens: &[TokenId], past: usize) -> Result<Tensor> {
        let ids: Vec<u32> = tokens.iter().map(|t| t.0).collect();
        Ok(self.model.forward(&Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?, past)?)
    }
}

impl Engine for After<'_> {
    fn pass(&mut self, tokens: &[TokenId], _: Wanted) -> Result<Pass> {
        // Position 0 empties the cache.
        self.forward(self.context, 0)?;
        let start = Instant::now();
        let logits = self.forward(tokens, self.context.len())?;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        Ok(Pass { ms, last: logits.flatten_all()?.to_vec1()? })
    }
}
