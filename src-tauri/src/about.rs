//! What helps when something goes wrong: the log file, and a description of this installation that
//! can be shown to others. **Neither has any word of a chat.**

use crate::state::{ApiError, App};
use std::fmt::Write as _;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tandem_protocol::without_words;
use tauri::State;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

/// Days whose log is kept.
const DAYS: usize = 5;
/// Of the newest log file, this much is looked at, and so many lines are shown.
const TAIL_BYTES: u64 = 64 << 10;
const TAIL_LINES: usize = 40;

/// Beside the database.
fn log_folder(database: &Path) -> PathBuf {
    database.with_file_name("logs")
}

/// Warnings go to the terminal, and a little more to a file a day.
pub(crate) fn start_log(database: &Path) {
    let folder = log_folder(database);
    let chosen = |default: &str| {
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default))
    };
    let terminal = fmt::layer().with_writer(std::io::stderr);
    let terminal = terminal.with_filter(chosen("warn").and(filter_fn(without_words)));
    // The library looks for old files first and complains on the terminal where there is no folder.
    let _ = std::fs::create_dir_all(&folder);
    let file = tracing_appender::rolling::Builder::new()
        .rotation(tracing_appender::rolling::Rotation::DAILY)
        .filename_prefix("tandem")
        .filename_suffix("log")
        .max_log_files(DAYS)
        .build(&folder);
    // Without it the app still runs: the disk may be full.
    let problem = file.as_ref().err().map(ToString::to_string);
    let file = file.ok().map(|file| {
        let layer = fmt::layer().with_ansi(false).with_writer(Mutex::new(file));
        let filter = chosen("warn,tandem_app=info,tandem_inference=info,edge=info");
        layer.with_filter(filter.and(filter_fn(without_words)))
    });
    tracing_subscriber::registry().with(terminal).with(file).init();
    if let Some(problem) = problem {
        tracing::warn!("there is no log file: {problem}");
    }
    tracing::info!("Tandem {} starts", env!("CARGO_PKG_VERSION"));
}

/// The end of the newest log file.
fn log_tail(folder: &Path) -> std::io::Result<String> {
    let files = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    // Names carry the day.
    let Some(newest) = files.max() else { return Ok(String::new()) };
    let mut file = std::fs::File::open(newest)?;
    let from = file.metadata()?.len().saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}

/// This installation in plain text: versions, models, settings, sizes, the end of the log.
#[tauri::command]
pub(crate) async fn diagnostics(app: State<'_, Arc<App>>) -> Result<String, ApiError> {
    let app = Arc::clone(&app);
    let conversations = app.store.conversations().await?.len();
    let work = move || describe(&app, conversations);
    tokio::task::spawn_blocking(work).await.map_err(|e| ApiError::new("diagnostics", e))
}

fn describe(app: &App, conversations: usize) -> String {
    let (status, settings) = (app.status(), app.settings());
    let none = || "none".to_owned();
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name}: {value}");
    };
    line("Tandem", env!("CARGO_PKG_VERSION").into());
    line("system", format!("{} {}", std::env::consts::OS, std::env::consts::ARCH));
    line("webview", tauri::webview_version().unwrap_or_else(|e| e.to_string()));
    let device = app.changing().drafter.as_ref().map(|d| d.info().device.clone());
    line(
        "drafter",
        format!(
            "{} ({}), computed by {}",
            status.drafter.model.unwrap_or_else(none),
            status.drafter.detail.unwrap_or_else(|| status.drafter.state.into()),
            device.unwrap_or_else(none),
        ),
    );
    line(
        "edge",
        format!(
            "{} ({}), {}",
            status.edge.model.unwrap_or_else(none),
            status.edge.detail.unwrap_or_else(|| status.edge.state.into()),
            if status.edge.bundled { "bundled" } else { "paired" },
        ),
    );
    line("mode", format!("{:?}, γ {:?}", settings.mode, settings.gamma));
    line(
        "sampling",
        format!(
            "temperature {}, top-k {}, top-p {}, {} tokens at most",
            settings.temperature, settings.top_k, settings.top_p, settings.max_tokens
        ),
    );
    line("system prompt", format!("{} characters", settings.system_prompt.chars().count()));
    line("conversations", conversations.to_string());
    let size = std::fs::metadata(&app.database).map_or(0, |m| m.len());
    line("database", format!("{} kB", size / 1000));
    for file in app.models.installed() {
        line("model", format!("{}, {} MB", file.name, file.bytes / 1_000_000));
    }
    let memory = tandem_inference::available_memory();
    line("memory available", memory.map_or_else(none, |b| format!("{} MB", b / 1_000_000)));
    let tail = log_tail(&log_folder(&app.database));
    line("log", tail.map_or_else(|e| e.to_string(), |t| format!("\n{t}")));
    text
}
