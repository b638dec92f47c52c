//! Stands for llama.cpp in a build without the feature `llama`.

use super::Engine;
use anyhow::Result;
use std::path::Path;
use tandem_speculation::TokenId;

/// There is none in this build.
pub fn version() -> Option<String> {
    None
}

/// Never made.
pub enum Llama {}

impl Llama {
    /// Always none.
    pub fn load(_: &Path) -> Result<Option<Self>> {
        Ok(None)
    }

    /// Never called.
    pub fn after(&self, _: &[TokenId], _: usize) -> Result<Box<dyn Engine>> {
        match *self {}
    }
}
