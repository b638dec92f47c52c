//! Figures, the split of an answer, exports and the benchmark. `ui/src/lib/api/metrics.ts` is the
//! mirror of what crosses the border here.

use crate::state::{ApiError, App};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;
use tandem_device::store::{Choices, Filter, Format, Metrics, Split};
use tandem_device::{Benchmark, BenchmarkError, Plan, Progress, RoundRecord, Way, benchmark};
use tauri::State;
use tauri::ipc::{InvokeBody, Request};
use tauri_plugin_dialog::DialogExt;
use tokio_util::sync::CancellationToken;

type Shared<'a> = State<'a, Arc<App>>;
type Answer<T> = Result<T, ApiError>;

/// The last round of a running answer, for the live line of the link.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LiveRound {
    pub mode: &'static str,
    pub gamma: u32,
    pub rtt_ms: f64,
    pub decision: Option<String>,
}

impl LiveRound {
    pub(crate) fn of(record: &RoundRecord) -> Self {
        let decision = record.decision.clone();
        Self { mode: record.mode, gamma: record.gamma, rtt_ms: record.rtt_ms, decision }
    }
}

/// A benchmark that runs.
pub(crate) struct Measuring {
    pub cancel: CancellationToken,
    pub progress: Option<Progress>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct BenchmarkState {
    running: bool,
    progress: Option<Progress>,
    /// Of the last one, if it failed.
    problem: Option<ApiError>,
}

/// Why something has to wait.
pub(crate) fn running() -> ApiError {
    let text = "a benchmark is running; wait for its end, or cancel it";
    ApiError::new("benchmark_running", text)
}

/// A benchmark as the window shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BenchmarkResult {
    #[serde(flatten)]
    benchmark: Benchmark,
    ways: Vec<Way>,
    recommended: Option<usize>,
}

impl From<Benchmark> for BenchmarkResult {
    fn from(benchmark: Benchmark) -> Self {
        let (ways, recommended) = (benchmark.ways(), benchmark.recommended());
        Self { benchmark, ways, recommended }
    }
}

#[tauri::command]
pub(crate) async fn answer_split(app: Shared<'_>, message_id: i64) -> Answer<Split> {
    Ok(app.store.split(message_id).await?)
}

#[tauri::command]
pub(crate) async fn metrics_choices(app: Shared<'_>) -> Answer<Choices> {
    Ok(app.store.metrics_choices().await?)
}

#[tauri::command]
pub(crate) async fn metrics_read(app: Shared<'_>, filter: Filter) -> Answer<Metrics> {
    Ok(app.store.metrics(&filter).await?)
}

/// Asks where to, and writes; `None` when nobody chose a place.
#[tauri::command]
pub(crate) async fn metrics_export(
    app: Shared<'_>,
    filter: Filter,
    format: String,
) -> Answer<Option<String>> {
    let (format, ending) = match format.as_str() {
        "csv" => (Format::Csv, "csv"),
        "json" => (Format::Json, "json"),
        _ => return Err(ApiError::new("export", "an export is csv or json")),
    };
    let Some(path) = place(&app, "tandem-rounds", ending).await? else { return Ok(None) };
    let file = std::fs::File::create(&path).map_err(|e| not_written(&path, &e))?;
    app.store.export_rounds(&filter, format, file).await?;
    Ok(Some(path.display().to_string()))
}

/// An image that the window drew is this large at most.
const LARGEST_IMAGE: usize = 32 << 20;

/// Writes an image, given as the request's raw body, where the user says.
#[tauri::command]
pub(crate) async fn metrics_export_image(
    app: Shared<'_>,
    request: Request<'_>,
) -> Answer<Option<String>> {
    let InvokeBody::Raw(bytes) = request.body() else {
        return Err(ApiError::new("export", "the image is missing"));
    };
    if !bytes.starts_with(b"\x89PNG\r\n\x1a\n") || bytes.len() > LARGEST_IMAGE {
        return Err(ApiError::new("export", "the charts could not be drawn as a PNG image"));
    }
    let Some(path) = place(&app, "tandem-metrics", "png").await? else { return Ok(None) };
    std::fs::write(&path, bytes).map_err(|e| not_written(&path, &e))?;
    Ok(Some(path.display().to_string()))
}

fn not_written(path: &std::path::Path, e: &std::io::Error) -> ApiError {
    ApiError::new("export", format!("{} cannot be written: {e}; choose another", path.display()))
}

/// The place that the user chooses in the system's dialog. `TANDEM_EXPORT_DIR` stands in for it
/// where a program drives the window, which cannot reach a dialog of the system.
async fn place(app: &App, name: &str, ending: &str) -> Answer<Option<PathBuf>> {
    let name = format!("{name}.{ending}");
    if let Some(folder) = std::env::var_os("TANDEM_EXPORT_DIR").filter(|v| !v.is_empty()) {
        return Ok(Some(PathBuf::from(folder).join(name)));
    }
    let (sender, answer) = tokio::sync::oneshot::channel();
    let dialog = app.handle.dialog().file();
    dialog.set_file_name(name).add_filter(ending.to_uppercase(), &[ending]).save_file(|chosen| {
        let _ = sender.send(chosen);
    });
    let chosen = answer.await.ok().flatten();
    let path = chosen.map(tauri_plugin_dialog::FilePath::into_path).transpose();
    path.map_err(|e| ApiError::new("export", e))
}

#[tauri::command]
pub(crate) async fn benchmarks_list(app: Shared<'_>) -> Answer<Vec<BenchmarkResult>> {
    Ok(app.store.benchmarks().await?.into_iter().map(Into::into).collect())
}

#[tauri::command]
pub(crate) async fn benchmark_delete(app: Shared<'_>, id: i64) -> Answer<()> {
    Ok(app.store.delete_benchmark(id).await?)
}

/// Measures, alone: no answer is written meanwhile.
#[tauri::command]
pub(crate) async fn benchmark_start(app: Shared<'_>, quick: bool) -> Answer<BenchmarkResult> {
    let cancel = CancellationToken::new();
    let (drafter, link) = {
        let mut now = app.changing();
        now.idle()?;
        let Some(drafter) = now.drafter.clone() else {
            return Err(ApiError::new("drafter", "the model on this device is not ready yet"));
        };
        now.benchmark = Some(Measuring { cancel: cancel.clone(), progress: None });
        now.benchmark_problem = None;
        (drafter, now.link.clone())
    };
    let plan = if quick { Plan::QUICK } else { Plan::FULL };
    let watch = |progress| {
        if let Some(measuring) = &mut app.changing().benchmark {
            measuring.progress = Some(progress);
        }
    };
    let result = benchmark(&drafter, link.as_ref(), plan, &cancel, watch).await;
    let kept = keep(&app, result).await;
    let mut now = app.changing();
    now.benchmark = None;
    now.benchmark_problem = kept.as_ref().err().cloned();
    kept.map(Into::into)
}

async fn keep(app: &App, result: Result<Benchmark, BenchmarkError>) -> Answer<Benchmark> {
    let mut result = result.map_err(|e| match e {
        BenchmarkError::Cancelled => ApiError::new("cancelled", e),
        e => ApiError::new("benchmark", e),
    })?;
    result.id = app.store.add_benchmark(&result).await?;
    Ok(result)
}

/// How far the benchmark is that runs now, whoever started it and whatever the window shows.
#[tauri::command]
pub(crate) fn benchmark_state(app: Shared<'_>) -> BenchmarkState {
    let now = app.changing();
    let progress = now.benchmark.as_ref().and_then(|b| b.progress.clone());
    BenchmarkState {
        running: now.benchmark.is_some(),
        progress,
        problem: now.benchmark_problem.clone(),
    }
}

#[tauri::command]
pub(crate) fn benchmark_cancel(app: Shared<'_>) {
    if let Some(measuring) = &app.changing().benchmark {
        measuring.cancel.cancel();
    }
}
