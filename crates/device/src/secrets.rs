//! Tokens of edges, in the system's key store where there is one (Keystore on Android, Keychain on
//! iOS), otherwise in a file that only its owner may read, beside the database.

use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use thiserror::Error;

#[cfg(not(any(target_os = "android", target_os = "ios")))]
use keyring::{Entry, Error as StoreError};
#[cfg(any(target_os = "android", target_os = "ios"))]
use keyring_core::{Entry, Error as StoreError};

/// An entry of the system's key store.
#[cfg(not(any(target_os = "android", target_os = "ios")))]
fn system_entry(name: &str) -> Option<Entry> {
    // Opened once: one that comes up later is seen by the next start only.
    let entry = Entry::new(SERVICE, name);
    if let (Err(_), Err(e)) = (&entry, Entry::store_status()) {
        tracing::info!("the system has no key store: {e}");
    }
    entry.ok()
}

#[cfg(any(target_os = "android", target_os = "ios"))]
fn system_entry(name: &str) -> Option<Entry> {
    #[cfg(target_os = "android")]
    use android_native_keyring_store as system;
    #[cfg(target_os = "ios")]
    use apple_native_keyring_store::protected as system;
    static OPENED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    let opened = OPENED.get_or_init(|| match system::Store::new() {
        Ok(store) => {
            keyring_core::set_default_store(store);
            true
        }
        Err(e) => {
            tracing::warn!("the system's key store cannot be opened: {e}");
            false
        }
    });
    if *opened { Entry::new(SERVICE, name).ok() } else { None }
}

/// Under which name the system's key store has our entries.
const SERVICE: &str = "tandem";
const FILE: &str = "tokens.json";
/// One change of the file at a time in this process.
static CHANGING: Mutex<()> = Mutex::new(());

/// A token cannot be kept or read.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The file.
    #[error("cannot use {0}: {1}; check that the folder may be written to")]
    File(PathBuf, io::Error),
    /// The key store.
    #[error(
        "the system's key store does not give the box's token ({0}); unlock it and start again, or pair the box again"
    )]
    Store(String),
    /// It is in neither place.
    #[error("this box's token is lost; pair it again: run `tandem-edge pair` on the box")]
    Missing,
}

/// Where a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kept {
    /// In the system's key store.
    System,
    /// In a file beside the database.
    File,
}

/// The two places. Calls wait for files and for the system: not for the async runtime.
#[derive(Clone, Debug)]
pub struct Secrets {
    file: PathBuf,
    system: bool,
}

impl Secrets {
    /// For a database in this folder. The environment's `TANDEM_KEY_STORE=file` leaves the system's
    /// key store alone.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        let system = std::env::var_os("TANDEM_KEY_STORE").is_none_or(|v| v != "file");
        Self { file: folder.join(FILE), system }
    }

    fn entry(&self, name: &str) -> Option<Entry> {
        if self.system { system_entry(name) } else { None }
    }

    /// Keeps a token under a name.
    ///
    /// # Errors
    /// If neither place takes it.
    pub fn keep(&self, name: &str, token: &str) -> Result<Kept, SecretError> {
        if let Some(entry) = self.entry(name) {
            // Some key stores take everything and keep nothing.
            let kept = entry.set_password(token).and_then(|()| entry.get_password());
            match kept {
                Ok(found) if found == token => return Ok(Kept::System),
                Ok(_) => tracing::warn!("the system's key store does not keep what it is given"),
                Err(e) => tracing::info!("no key store: {e}"),
            }
        }
        self.change(|tokens| tokens.insert(name.to_owned(), token.to_owned()))?;
        Ok(Kept::File)
    }

    /// A token, and where it is.
    ///
    /// # Errors
    /// If it is not there, or the key store is locked.
    pub fn get(&self, name: &str) -> Result<(String, Kept), SecretError> {
        if let Some(token) = self.read()?.remove(name) {
            return Ok((token, Kept::File));
        }
        if !self.system {
            return Err(SecretError::Missing);
        }
        // Not lost: it may be in a key store that is not there today.
        let gone = || SecretError::Store("it cannot be reached".into());
        let entry = self.entry(name).ok_or_else(gone)?;
        match entry.get_password() {
            Ok(token) => Ok((token, Kept::System)),
            Err(StoreError::NoEntry) => Err(SecretError::Missing),
            Err(e) => Err(SecretError::Store(e.to_string())),
        }
    }

    /// Where a token is; `None` if it cannot be had.
    #[must_use]
    pub fn place(&self, name: &str) -> Option<Kept> {
        self.get(name).ok().map(|(_, kept)| kept)
    }

    /// Forgets a token.
    ///
    /// # Errors
    /// If the file cannot be changed, or the key store keeps it.
    pub fn forget(&self, name: &str) -> Result<(), SecretError> {
        if self.read()?.contains_key(name) {
            return self.change(|tokens| tokens.remove(name));
        }
        match self.entry(name).map(|entry| entry.delete_credential()) {
            None | Some(Ok(()) | Err(StoreError::NoEntry)) => Ok(()),
            Some(Err(e)) => Err(SecretError::Store(e.to_string())),
        }
    }

    fn failed(&self) -> impl Fn(io::Error) -> SecretError {
        |e| SecretError::File(self.file.clone(), e)
    }

    fn read(&self) -> Result<BTreeMap<String, String>, SecretError> {
        match fs::read(&self.file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| self.failed()(io::Error::new(io::ErrorKind::InvalidData, e))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(e) => Err(self.failed()(e)),
        }
    }

    fn change<R>(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, String>) -> R,
    ) -> Result<(), SecretError> {
        let _turn = CHANGING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut tokens = self.read()?;
        change(&mut tokens);
        let new = self.file.with_extension(format!("{}.new", std::process::id()));
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let written = serde_json::to_vec_pretty(&tokens).map_err(io::Error::other).and_then(|b| {
            if let Some(folder) = self.file.parent().filter(|f| !f.as_os_str().is_empty()) {
                fs::create_dir_all(folder)?;
            }
            let mut file = options.open(&new)?;
            file.write_all(&b)?;
            file.sync_all()
        });
        written.and_then(|()| fs::rename(&new, &self.file)).map_err(|e| {
            let _ = fs::remove_file(&new);
            self.failed()(e)
        })
    }
}
