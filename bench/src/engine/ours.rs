//! Tandem's own engine.

use super::{Engine, Pass};
use anyhow::Result;
use std::time::Instant;
use tandem_inference::{KvCache, Model, Segment, Wanted};
use tandem_speculation::TokenId;

/// A model with a context.
pub struct Ours<'a> {
    model: &'a Model,
    cache: KvCache,
    context: usize,
}

impl<'a> Ours<'a> {
    /// Computes the context; `room` tokens more will fit.
    pub fn after(model: &'a Model, context: &[TokenId], room: usize) -> Result<Self> {
        let mut cache = model.new_cache(context.len() + room)?;
        let logits = Wanted::None;
        model.forward(&mut [Segment { cache: &mut cache, tokens: context, logits }])?;
        Ok(Self { model, cache, context: context.len() })
    }
}

impl Engine for Ours<'_> {
    fn pass(&mut self, tokens: &[TokenId], logits: Wanted) -> Result<Pass> {
        let start = Instant::now();
        let segment = Segment { cache: &mut self.cache, tokens, logits };
        let logits = self.model.forward(&mut [segment])?;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        self.cache.truncate(self.context);
        Ok(Pass { ms, last: logits.row(logits.rows() - 1).to_vec() })
    }
}
