//! What every result states beside its numbers: where, when and with which code it was measured.
//! Without that a number cannot be compared with another one.

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use tandem_inference::store::Store;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The file of a model that is given by path or by name.
pub fn model_file(name: &str) -> Result<PathBuf> {
    Ok(Store::open_default()?.resolve(name)?)
}

/// The circumstances of a run.
#[derive(Serialize)]
pub struct Run {
    machine: Machine,
    /// As typed, with absolute paths cut to names: results are published.
    command: String,
    /// Of the folder that the program runs in; ends in `-dirty` when tracked files were changed.
    commit: String,
    date: String,
}

impl Run {
    /// Looks around.
    pub fn now() -> Result<Self> {
        Ok(Self {
            machine: Machine::this(),
            command: command(),
            commit: commit().unwrap_or_else(|| "unknown".to_owned()),
            date: OffsetDateTime::now_utc().replace_nanosecond(0)?.format(&Rfc3339)?,
        })
    }
}

/// The hardware, without a name that would tell whose it is.
#[derive(Serialize)]
struct Machine {
    cpu: String,
    cores: usize,
    /// Those instruction sets that matter to the kernels of any engine.
    simd: Vec<&'static str>,
    memory_mib: Option<u64>,
}

impl Machine {
    fn this() -> Self {
        let cpu = proc_field("/proc/cpuinfo", "model name");
        let memory = proc_field("/proc/meminfo", "MemTotal");
        let kib = memory.and_then(|m| m.trim_end_matches(" kB").parse::<u64>().ok());
        Self {
            cpu: cpu.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: cores(),
            simd: simd(),
            memory_mib: kib.map(|kib| kib >> 10),
        }
    }
}

/// How many threads compute at once here.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A line `key : value` of a file that Linux has; `None` elsewhere.
fn proc_field(file: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    Some(line.trim_start().strip_prefix(':')?.trim().to_owned())
}

#[cfg(target_arch = "x86_64")]
fn simd() -> Vec<&'static str> {
    macro_rules! present {
        ($($name:tt),*) => { [$(($name, is_x86_feature_detected!($name))),*] };
    }
    let all = present!("avx", "avx2", "fma", "f16c", "avxvnni", "avx512f", "avx512vnni");
    all.into_iter().filter_map(|(name, is)| is.then_some(name)).collect()
}

#[cfg(target_arch = "aarch64")]
fn simd() -> Vec<&'static str> {
    macro_rules! present {
        ($($name:tt),*) => { [$(($name, std::arch::is_aarch64_feature_detected!($name))),*] };
    }
    let all = present!("neon", "fp16", "dotprod", "i8mm", "sve");
    all.into_iter().filter_map(|(name, is)| is.then_some(name)).collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn simd() -> Vec<&'static str> {
    Vec::new()
}

/// Tells how much of the processor other programs take meanwhile. That hits engines unevenly, most
/// those whose threads spin at barriers, so a result names it. Linux only.
pub struct Bystanders(Option<Ticks>);

/// Clock ticks since some start.
#[derive(Clone, Copy)]
struct Ticks {
    busy: f64,
    idle: f64,
    own: f64,
}

impl Bystanders {
    /// Watches from now on.
    pub fn watch() -> Self {
        Self(Ticks::now())
    }

    /// The share of all cores' time, in percent, that others have taken since.
    pub fn percent(&self) -> Option<f64> {
        let (start, end) = (self.0?, Ticks::now()?);
        let busy = end.busy - start.busy;
        let all = busy + end.idle - start.idle;
        Some((100.0 * (busy - (end.own - start.own)) / all).clamp(0.0, 100.0))
    }
}

impl Ticks {
    fn now() -> Option<Self> {
        let numbers = |text: &str| text.split_whitespace().map_while(|w| w.parse().ok()).collect();
        let all = std::fs::read_to_string("/proc/stat").ok()?;
        // User, nice, system, idle, waiting for a disk, interrupts twice, stolen by the host.
        let all: Vec<f64> = numbers(all.lines().next()?.strip_prefix("cpu ")?);
        let own = std::fs::read_to_string("/proc/self/stat").ok()?;
        // After the program's name in brackets and its state come, at 10 and 11, user and system.
        let own: Vec<f64> = numbers(own.rsplit_once(") ")?.1.get(2..)?);
        let idle = all.get(3)? + all.get(4)?;
        let busy = all.get(..8)?.iter().sum::<f64>() - idle;
        Some(Self { busy, idle, own: own.get(10)? + own.get(11)? })
    }
}

fn command() -> String {
    let name = |arg: String| match Path::new(&arg) {
        path if path.is_absolute() => {
            path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned())
        }
        _ => arg,
    };
    std::env::args().map(name).collect::<Vec<_>>().join(" ")
}

fn commit() -> Option<String> {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() { commit } else { format!("{commit}-dirty") })
}

/// The version of a dependency that this program was built with.
pub fn crate_version(name: &str) -> Option<&'static str> {
    let lock = include_str!("../../Cargo.lock");
    let (_, rest) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    rest.split('"').next()
}

/// What repeated measurements of one thing come to.
#[derive(Clone, Copy, Serialize)]
pub struct Spread {
    pub median: f64,
    /// The nearest to what the code alone costs: noise only adds.
    pub min: f64,
}

impl Spread {
    /// `None` of nothing.
    pub fn of(values: &[f64]) -> Option<Self> {
        Some(Self { median: percentile(values, 50.0)?, min: percentile(values, 0.0)? })
    }
}

/// The value below which `percent` of the values lie, interpolated; `None` of nothing.
pub fn percentile(values: &[f64], percent: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = percent / 100.0 * sorted.len().checked_sub(1)? as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    Some(low + (high - low) * at.fract())
}

/// Writes a result as JSON.
pub fn write_json(file: &Path, result: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(result)?;
    text.push('\n');
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// The same for a result with many parts: one line for each member, and for each element of a list.
pub fn write_json_lines(file: &Path, result: &impl Serialize) -> Result<()> {
    let Value::Object(members) = serde_json::to_value(result)? else { bail!("no object") };
    let lines = members.iter().map(|(key, value)| match value {
        Value::Array(list) => {
            let list: Vec<String> = list.iter().map(Value::to_string).collect();
            format!("\"{key}\":[\n{}\n]", list.join(",\n"))
        }
        value => format!("\"{key}\":{value}"),
    });
    let text = format!("{{\n{}\n}}\n", lines.collect::<Vec<_>>().join(",\n"));
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// A figure to five digits.
pub fn short(figure: f64) -> f64 {
    format!("{figure:.4e}").parse().unwrap_or(figure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_hold_what_was_written() {
        let result = json!({ "a": [[1, 2.5], { "b": [] }], "c": { "d": null }, "e": "\n" });
        let file = tempfile::NamedTempFile::new().unwrap();
        write_json_lines(file.path(), &result).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), result);
        assert_eq!(text.lines().count(), 8, "{text}");
    }

    #[test]
    fn short_figures_keep_five_digits() {
        assert_eq!(short(123.456_78), 123.46);
        assert_eq!(short(0.000_123_456_78), 0.000_123_46);
        assert_eq!(short(607_748.4), 607_750.0);
        assert!(short(f64::NAN).is_nan());
        assert_eq!((short(0.0), short(f64::INFINITY)), (0.0, f64::INFINITY));
    }

    #[test]
    fn percentiles_interpolate() {
        assert_eq!(percentile(&[], 50.0), None);
        assert_eq!(percentile(&[3.0], 95.0), Some(3.0));
        assert_eq!(percentile(&[4.0, 1.0, 2.0], 50.0), Some(2.0));
        assert_eq!(percentile(&[4.0, 1.0, 2.0, 3.0], 50.0), Some(2.5));
        assert_eq!(percentile(&[0.0, 10.0], 95.0), Some(9.5));
    }

    #[test]
    fn bystanders_take_a_share() {
        let watch = Bystanders::watch();
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(watch.percent().is_none_or(|p| (0.0..=100.0).contains(&p)));
    }

    #[test]
    fn versions_come_from_the_lock_file() {
        assert_eq!(crate_version("tandem-bench"), Some(env!("CARGO_PKG_VERSION")));
        assert_eq!(crate_version("no-such-crate"), None);
    }
}
