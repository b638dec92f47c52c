//! Files of one's own.

use super::error::io_at;
use super::{
    CHUNK, Installed, Phase, Progress, Report, Store, StoreError, catalogue, check, size_of,
};
use crate::Facts;
use crate::gguf::parts;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

impl Store {
    /// Takes a model's file into the folder, or all files of one in several: as second names of the
    /// same files where the system can do that, else as copies. Only a model that could be loaded is
    /// taken. Blocks.
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
        let mut files = Vec::new();
        for from in parts::files_of(from) {
            let name = from.file_name().unwrap_or_default().to_owned();
            // A link is followed: a second name of the link itself would lead nowhere from here.
            files.push((fs::canonicalize(&from).map_err(io_at(&from))?, self.folder.join(name)));
        }
        let (_, first) = &files[0];
        let here = |path: &Path| fs::canonicalize(path).ok();
        let other = |(from, to): &(PathBuf, PathBuf)| {
            to.exists() && here(to).as_deref() != Some(from.as_path())
        };
        let namesake = self.find(&facts.name).is_some_and(|i| i.path != *first);
        if namesake || files.iter().any(other) {
            return Err(StoreError::Unknown(format!(
                "a model called {} is here already; rename the file or delete the other first",
                facts.name
            )));
        }
        fs::create_dir_all(&self.folder).map_err(io_at(&self.folder))?;
        let mut made: Vec<&Path> = Vec::new();
        let mut done = 0;
        for (from, to) in &files {
            if !to.exists() {
                let taken = self.take(from, to, &facts, cancel, &mut |bytes| {
                    let done = done + bytes;
                    progress(Progress { phase: Phase::Downloading, done, total: facts.file_bytes });
                });
                if let Err(e) = taken {
                    for path in made {
                        let _ = fs::remove_file(path);
                    }
                    return Err(e);
                }
                made.push(to);
            }
            done += size_of(from);
        }
        let file = first.file_name().and_then(|f| f.to_str()).unwrap_or_default();
        let entry = catalogue().iter().find(|e| e.file == file);
        let name = entry.map_or(facts.name, |e| e.name.clone());
        Ok(Installed { name, bytes: facts.file_bytes, entry, path: first.clone() })
    }

    /// Takes one file; `tell` gets the bytes that were copied so far.
    fn take(
        &self,
        from: &Path,
        to: &Path,
        facts: &Facts,
        cancel: &AtomicBool,
        tell: &mut dyn FnMut(u64),
    ) -> Result<(), StoreError> {
        if fs::hard_link(from, to).is_ok() {
            return Ok(());
        }
        self.check_space(&facts.name, size_of(from))?;
        let mut part = to.as_os_str().to_owned();
        part.push(".import");
        let part = PathBuf::from(part);
        let copied =
            copy(from, &part, cancel, tell).and_then(|()| fs::rename(&part, to).map_err(io_at(to)));
        if copied.is_err() {
            let _ = fs::remove_file(&part);
        }
        copied
    }
}

fn copy(
    from: &Path,
    to: &Path,
    cancel: &AtomicBool,
    tell: &mut dyn FnMut(u64),
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
        tell(done);
    }
    target.sync_all().map_err(io_at(to))
}
