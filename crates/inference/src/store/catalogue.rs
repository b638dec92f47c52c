//! The models that are known by name, and which go together. `seen` in `models.json` says where each
//! repository and file was found: nothing stands there from memory.

use crate::gguf::parts::PartName;
use serde::Deserialize;
use std::sync::OnceLock;

/// A known model file.
#[derive(Clone, Debug, Deserialize)]
pub struct Entry {
    /// What it is called.
    pub name: String,
    /// Models of one family share a tokenizer.
    pub family: String,
    /// How many weights it has, for people: `1.5B`.
    pub parameters: String,
    /// How its weights are stored.
    pub quantisation: String,
    /// Tokens of a context at most.
    pub context: usize,
    /// Bytes of KV cache that one token takes.
    pub cache_bytes_per_token: u64,
    /// Name of the file; of the first where there are several.
    pub file: String,
    /// Files that it is in.
    #[serde(default = "one")]
    pub parts: usize,
    /// Size of all; about that where the hash is not known.
    pub bytes: u64,
    /// Its hash, in hexadecimal. `None`: the hub's own, asked for when it is downloaded.
    pub sha256: Option<String>,
    /// Under which it may be used.
    pub licence: String,
    /// For the tests alone, not for people.
    #[serde(default)]
    pub test: bool,
    pub(super) hub: Option<String>,
    pub(super) packages: Option<Packages>,
}

fn one() -> usize {
    1
}

impl Entry {
    /// Each file as an entry of its own, in order. The size of each is an estimate where there are
    /// several.
    pub(super) fn files(&self) -> Vec<Self> {
        let parts = PartName::of_file(&self.file).filter(|name| name.count == self.parts);
        let Some(parts) = parts.filter(|_| self.parts > 1) else { return vec![self.clone()] };
        let bytes = self.bytes / self.parts as u64;
        let file = |file| Self { file, parts: 1, bytes, ..self.clone() };
        parts.files().map(file).collect()
    }
}

/// Packages that carry a file in parts, in order of their number.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Packages {
    pub pattern: String,
    pub first: u32,
    pub last: u32,
}

/// A drafter and a verifier that go well together, by name.
#[derive(Clone, Debug, Deserialize)]
pub struct Pair {
    /// The small model.
    pub drafter: String,
    /// The large model.
    pub verifier: String,
}

#[derive(Deserialize)]
struct Catalogue {
    models: Vec<Entry>,
    pairs: Vec<Pair>,
}

fn read() -> &'static Catalogue {
    static CATALOGUE: OnceLock<Catalogue> = OnceLock::new();
    CATALOGUE.get_or_init(|| {
        serde_json::from_str(include_str!("../../models.json")).expect("models.json is well formed")
    })
}

/// The known models.
#[must_use]
pub fn catalogue() -> &'static [Entry] {
    &read().models
}

/// The known model of this name.
#[must_use]
pub fn entry(name: &str) -> Option<&'static Entry> {
    catalogue().iter().find(|e| e.name == name)
}

/// Pairs that go well together; the first is the default.
#[must_use]
pub fn pairs() -> &'static [Pair] {
    &read().pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_pair_is_of_one_family_and_grows() {
        for pair in pairs() {
            let (drafter, verifier) = (entry(&pair.drafter), entry(&pair.verifier));
            let (drafter, verifier) = (drafter.expect("known"), verifier.expect("known"));
            assert_eq!(drafter.family, verifier.family);
            assert!(drafter.bytes * 2 < verifier.bytes, "{}", verifier.name);
        }
    }

    #[test]
    fn every_entry_says_where_it_was_seen() {
        #[derive(Deserialize)]
        struct Seen {
            models: Vec<SeenEntry>,
        }
        #[derive(Deserialize)]
        struct SeenEntry {
            name: String,
            seen: String,
        }
        let seen: Seen =
            serde_json::from_str(include_str!("../../models.json")).expect("each has one");
        for entry in seen.models {
            assert!(entry.seen.len() > 10, "{}", entry.name);
        }
    }

    #[test]
    fn entries_are_whole() {
        let mut names = HashSet::new();
        for e in catalogue() {
            assert!(names.insert(&e.name) && names.insert(&e.file), "{} is there twice", e.name);
            assert!(e.file.ends_with(".gguf") && !e.file.contains(['/', '\\']), "{}", e.file);
            assert!(e.hub.is_some() || e.packages.is_some(), "{} comes from nowhere", e.name);
            assert_eq!(e.files().len(), e.parts, "{}", e.name);
            let number = PartName::of_file(&e.file).map_or(1, |name| name.number);
            assert_eq!(number, 1, "{} names its first file", e.name);
            match &e.sha256 {
                Some(hash) => assert_eq!(hash.len(), 64),
                // An estimate is a round number.
                None => assert!(e.hub.is_some() && e.bytes.is_multiple_of(10_000_000)),
            }
        }
    }
}
