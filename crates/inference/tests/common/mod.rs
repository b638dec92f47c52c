//! Where tests find the real models.
#![allow(dead_code)]

use std::path::PathBuf;
use tandem_inference::{LoadOptions, Model};

pub fn model_path(name: &str) -> PathBuf {
    let cache = std::env::var_os("TANDEM_CACHE_DIR").map(PathBuf::from).unwrap_or_else(|| {
        let dirs = directories::ProjectDirs::from("", "", "tandem").unwrap();
        dirs.cache_dir().to_owned()
    });
    let path = cache.join("models").join(format!("{name}.gguf"));
    assert!(path.exists(), "{} is missing: `npm test` fetches it", path.display());
    path
}

pub fn load(name: &str) -> Model {
    Model::load(&model_path(name), &LoadOptions::default()).unwrap()
}
