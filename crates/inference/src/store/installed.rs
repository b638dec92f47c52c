//! What is in the folder: listing and deleting, a model in several files as one.

use super::error::io_at;
use super::{Entry, Installed, Store, StoreError, Usage, catalogue, entry, tree_size};
use crate::gguf::parts::{self, PartName};
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

impl Store {
    /// The models in the folder, by name.
    #[must_use]
    pub fn installed(&self) -> Vec<Installed> {
        let Ok(files) = fs::read_dir(&self.folder) else { return Vec::new() };
        // By the name of the first file of each: the paths and sizes of those that are there.
        let mut models: BTreeMap<String, BTreeMap<PathBuf, u64>> = BTreeMap::new();
        for path in files.flatten().map(|f| f.path()) {
            let Some(file) = path.file_name().and_then(|f| f.to_str()) else { continue };
            let meta = fs::metadata(&path).ok().filter(fs::Metadata::is_file);
            let Some(meta) = meta.filter(|_| file.ends_with(".gguf")) else { continue };
            let first = PartName::of_file(file).map_or_else(|| file.to_owned(), |n| n.file(1));
            models.entry(first).or_default().insert(path, meta.len());
        }
        let installed = |(first, files): (String, BTreeMap<PathBuf, u64>)| {
            let entry = catalogue().iter().find(|e| e.file == first);
            let name = match (entry, PartName::of_file(&first)) {
                (Some(entry), _) => entry.name.clone(),
                (None, Some(part)) => part.model,
                (None, None) => first.strip_suffix(".gguf")?.to_owned(),
            };
            let bytes = files.values().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes));
            let path = files.into_keys().next()?;
            Some(Installed { name, bytes, entry, path })
        };
        let mut all: Vec<_> = models.into_iter().filter_map(installed).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The model file of this name, checked or not.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Installed> {
        self.installed().into_iter().find(|i| i.name == name)
    }

    /// What the folder takes of the disk.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let free = self.folder.ancestors().find_map(|f| fs4::available_space(f).ok());
        Usage { bytes: tree_size(&self.folder), free }
    }

    /// Deletes a model's file and what was begun of it: one of the catalogue, or an imported one.
    ///
    /// # Errors
    /// If there is none, a program computes with it, or it cannot be deleted.
    pub fn delete(&self, name: &str) -> Result<(), StoreError> {
        let installed = self.find(name);
        if installed.is_none() && entry(name).is_none() {
            return Err(StoreError::Unknown(format!("no model here is called {name}")));
        }
        if let Some(installed) = installed {
            let files = parts::files_of(&installed.path);
            let files: Vec<PathBuf> = files.into_iter().filter(|path| path.exists()).collect();
            let mut locks = Vec::new();
            for path in &files {
                let file = File::open(path).map_err(io_at(path))?;
                if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
                    return Err(StoreError::InUse(name.to_owned()));
                }
                locks.push(file);
            }
            for path in &files {
                fs::remove_file(path).map_err(io_at(path))?;
            }
        }
        if let Some(entry) = entry(name) {
            self.discard(entry)?;
            for file in entry.files() {
                remove(&self.beside(&file, "verified"))?;
            }
        }
        Ok(())
    }

    /// Deletes what an unfinished download left.
    ///
    /// # Errors
    /// If a file cannot be deleted.
    pub fn discard(&self, entry: &Entry) -> Result<(), StoreError> {
        for file in entry.files() {
            let finished = self.path(&file).exists();
            for ending in ["part", "ends", "expected", "lock"] {
                // What a finished file must be stays known.
                if !(finished && ending == "expected") {
                    remove(&self.beside(&file, ending))?;
                }
            }
            let pip = self.beside(&file, "pip");
            if pip.exists() {
                fs::remove_dir_all(&pip).map_err(io_at(&pip))?;
            }
        }
        Ok(())
    }
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_at(path)(e)),
        _ => Ok(()),
    }
}
