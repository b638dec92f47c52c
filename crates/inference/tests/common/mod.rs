//! Where tests find the real models, and how logits are compared.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses a part")]

pub mod made;

use std::path::{Path, PathBuf};
use tandem_inference::{DeviceChoice, LoadOptions, Logits, Model, Segment, Wanted};
use tandem_speculation::TokenId;

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

pub fn load_on(path: &Path, device: DeviceChoice) -> Model {
    Model::load(path, &LoadOptions { device, ..LoadOptions::default() }).unwrap()
}

pub fn all_logits(model: &Model, ids: &[TokenId]) -> Logits {
    let mut cache = model.new_cache(ids.len()).unwrap();
    model.forward(&mut [Segment { cache: &mut cache, tokens: ids, logits: Wanted::All }]).unwrap()
}

/// Relative distance of two rows of logits, after taking their means away.
pub fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let mean = |x: &[f32]| x.iter().map(|v| f64::from(*v)).sum::<f64>() / x.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let (mut diff, mut size) = (0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (f64::from(*a) - ma, f64::from(*b) - mb);
        diff += (a - b).powi(2);
        size += b * b;
    }
    (diff / size).sqrt()
}

pub fn argmax(row: &[f32]) -> usize {
    row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0
}
