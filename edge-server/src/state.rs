//! The edge's folder: its certificate, its devices, the pairing that is open, and who serves.
//!
//! Everything in it is for its owner alone, and is replaced as a whole, so that a reader never sees
//! half a file. `tandem-edge pair` and `devices` talk to the serving edge through it.

use serde::{Serialize, de::DeserializeOwned};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use thiserror::Error;

/// Bytes of a file here at most.
const MAX_FILE: u64 = 4 << 20;

/// Why the folder cannot be used. The text says what to do.
#[derive(Debug, Error)]
pub enum StateError {
    /// The system refuses.
    #[error(
        "cannot use {path}: {source}; check who may write there, or choose a folder with --state"
    )]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that is not what was written.
    #[error("{path} is damaged ({reason}); {remedy}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Another edge has it.
    #[error("another edge serves with the state in {0}; give each its own folder with --state")]
    InUse(PathBuf),
    /// No edge to pair with.
    #[error(
        "no edge serves with the state in {0}; start one that other machines can reach, such as \
         `tandem-edge serve --model FILE --listen 0.0.0.0:7470`, or name its folder with --state"
    )]
    NotServing(PathBuf),
    /// A device that is not in the list.
    #[error("no device is called {0}; `tandem-edge devices list` shows them")]
    NoDevice(String),
    /// A name that two devices have.
    #[error("more than one device is called {0}; use its id from `tandem-edge devices list`")]
    Ambiguous(String),
    /// The list is full.
    #[error(
        "{0} devices are paired, which is the most; `tandem-edge devices revoke` takes one away"
    )]
    Full(usize),
    /// Keys cannot be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(String),
}

/// The folder.
#[derive(Clone, Debug)]
pub struct StateFolder(PathBuf);

/// Held while an edge serves from the folder.
pub struct Serving(#[allow(dead_code, reason = "the lock lasts as long as the file is open")] File);

impl StateFolder {
    /// `TANDEM_DATA_DIR`, or the platform's folder for data.
    #[must_use]
    pub fn default_path() -> PathBuf {
        let folder = std::env::var_os("TANDEM_DATA_DIR").filter(|v| !v.is_empty());
        let folder = folder.map(PathBuf::from).or_else(|| {
            let dirs = directories::ProjectDirs::from("", "", "tandem")?;
            Some(dirs.data_dir().to_owned())
        });
        folder.unwrap_or_default().join("edge")
    }

    /// Makes the folder if it is missing.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(path).map_err(|source| StateError::Io { path: path.to_owned(), source })?;
        Ok(Self(path.to_owned()))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn failed(&self, name: &str) -> impl Fn(io::Error) -> StateError {
        let path = self.0.join(name);
        move |source| StateError::Io { path: path.clone(), source }
    }

    fn lock_file(&self, name: &str) -> Result<File, StateError> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(self.0.join(name)).map_err(self.failed(name))
    }

    /// Marks the folder as served from; one edge at a time.
    ///
    /// # Errors
    /// If another edge has it.
    pub fn serve(&self) -> Result<Serving, StateError> {
        let file = self.lock_file("serving.lock")?;
        match file.try_lock() {
            Ok(()) => Ok(Serving(file)),
            Err(fs::TryLockError::WouldBlock) => Err(StateError::InUse(self.0.clone())),
            Err(fs::TryLockError::Error(e)) => Err(self.failed("serving.lock")(e)),
        }
    }

    /// Whether an edge serves from the folder now.
    ///
    /// # Errors
    /// If the folder cannot be used.
    pub fn is_served(&self) -> Result<bool, StateError> {
        match self.serve() {
            Ok(_) => Ok(false),
            Err(StateError::InUse(_)) => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// Waits until no other process changes the file of this name.
    pub(crate) fn lock(&self, name: &str) -> Result<File, StateError> {
        let name = format!("{name}.lock");
        let file = self.lock_file(&name)?;
        file.lock().map_err(self.failed(&name))?;
        Ok(file)
    }

    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.0.join(name);
        match fs::metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Ok(found) if found.len() > MAX_FILE => {
                let (reason, remedy) = ("it is far too large".into(), "move it away");
                return Err(StateError::Damaged { path, reason, remedy });
            }
            _ => {}
        }
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.failed(name)(e)),
        }
    }

    pub(crate) fn read_json<T: DeserializeOwned>(
        &self,
        name: &str,
        remedy: &'static str,
    ) -> Result<Option<T>, StateError> {
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| {
            let (path, reason) = (self.0.join(name), e.to_string());
            StateError::Damaged { path, reason, remedy }
        })
    }

    /// Replaces the file of this name; a crash leaves the old one or the new one.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let new = self.0.join(format!("{name}.{}.{number}.new", std::process::id()));
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let written = options.open(&new).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        let done = written.and_then(|()| fs::rename(&new, self.0.join(name)));
        done.map_err(|e| {
            let _ = fs::remove_file(&new);
            self.failed(name)(e)
        })
    }

    pub(crate) fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StateError> {
        let bytes =
            serde_json::to_vec_pretty(value).map_err(|e| self.failed(name)(io::Error::other(e)))?;
        self.write(name, &bytes)
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), StateError> {
        match fs::remove_file(self.0.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.failed(name)(e)),
            _ => Ok(()),
        }
    }

    /// Changes when the file of this name was replaced.
    pub(crate) fn stamp(&self, name: &str) -> Option<(SystemTime, u64)> {
        let found = fs::metadata(self.0.join(name)).ok()?;
        Some((found.modified().ok()?, found.len()))
    }
}

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Random bytes from the system.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Fails only where the system has no randomness at all, and then nothing here can work.
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
