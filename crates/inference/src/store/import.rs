//! Files of one's own.

use super::error::io_at;
use super::{CHUNK, Installed, Phase, Progress, Report, Store, StoreError, check, entry};
use crate::Facts;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::AtomicBool;

impl Store {
    /// Takes a model file into the folder: as a second name of the same file where the system can
    /// do that, else as a copy. Only a file that could be loaded is taken. Blocks.
    ///
    /// # Errors
    /// If it is no usable model, one of this name is here already, it does not fit on the disk, or
    /// `cancel` was set; then nothing is left of it.
    pub fn import(
        &self,
        from: &Path,
        cancel: &AtomicBool,
        progress: Report<'_>,
    ) -> Result<Installed, StoreError> {
        let facts = Facts::read_whole(from)?;
        let file = format!("{}.gguf", facts.name);
        let to = self.folder.join(&file);
        let here = |path: &Path| fs::canonicalize(path).ok();
        if to.exists() && here(&to) != here(from) {
            return Err(StoreError::Unknown(format!(
                "a model called {} is here already; rename the file or delete the other first",
                facts.name
            )));
        }
        if !to.exists() {
            fs::create_dir_all(&self.folder).map_err(io_at(&self.folder))?;
            if fs::hard_link(from, &to).is_err() {
                self.check_space(&facts.name, facts.file_bytes)?;
                let part = self.folder.join(format!("{file}.import"));
                let copied = copy(from, &part, facts.file_bytes, cancel, progress)
                    .and_then(|()| fs::rename(&part, &to).map_err(io_at(&to)));
                if copied.is_err() {
                    let _ = fs::remove_file(&part);
                }
                copied?;
            }
        }
        let entry = entry(&facts.name).filter(|e| e.file == file);
        Ok(Installed { name: facts.name, bytes: facts.file_bytes, entry, path: to })
    }
}

fn copy(
    from: &Path,
    to: &Path,
    total: u64,
    cancel: &AtomicBool,
    progress: Report<'_>,
) -> Result<(), StoreError> {
    let mut source = File::open(from).map_err(io_at(from))?;
    let mut target = File::create(to).map_err(io_at(to))?;
    let (mut buffer, mut done) = (vec![0; CHUNK], 0);
    loop {
        check(cancel)?;
        let n = source.read(&mut buffer).map_err(io_at(from))?;
        if n == 0 {
            break;
        }
        target.write_all(&buffer[..n]).map_err(io_at(to))?;
        done += n as u64;
        progress(Progress { phase: Phase::Downloading, done, total });
    }
    target.sync_all().map_err(io_at(to))
}
