//! Model files: what is here, what could be, what fits, and which are used. Downloads and imports
//! belong to the app, not to the window that asked for them. `ui/src/lib/api/models.ts` mirrors it.

use crate::state::{ApiError, App, CONTEXT};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tandem_inference::store::{
    Entry, Installed, Phase, Progress, State as FileState, Store, StoreError, catalogue, entry,
    pairs,
};
use tandem_inference::{Facts, available_memory, memory};
use tauri::State;
use tauri::ipc::Channel;
use tauri_plugin_dialog::DialogExt;

type Shared<'a> = State<'a, Arc<App>>;
type Answer<T> = Result<T, ApiError>;

/// The setting that keeps [`Choice`].
pub(crate) const CHOICE: &str = "models";
/// An import's name among the downloads.
const IMPORT: &str = "";

/// The models that this device uses, by name: the drafter, and the verifier of its own edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Choice {
    pub drafter: String,
    pub verifier: String,
}

impl Default for Choice {
    /// The first pair of the catalogue.
    fn default() -> Self {
        let first = &pairs()[0];
        Self { drafter: first.drafter.clone(), verifier: first.verifier.clone() }
    }
}

impl Choice {
    /// What was kept; the default when nothing was.
    pub(crate) fn kept(text: Option<&str>) -> Self {
        text.and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default()
    }

    fn role(&self, name: &str) -> Option<&'static str> {
        if name == self.drafter {
            Some("drafter")
        } else if name == self.verifier {
            Some("verifier")
        } else {
            None
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(e: StoreError) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match e {
            StoreError::Network { name, reason } => Self::because(
                "hub",
                format!(
                    "{name} cannot be downloaded: no source could be reached; check the connection \
                     and try again, it goes on where it was"
                ),
                reason,
            ),
            StoreError::Io { ref source, .. }
                if matches!(source.kind(), StorageFull | QuotaExceeded) =>
            {
                let text = "the disk is full; make room and try again, what was saved is safe";
                Self::because("disk_full", text, e)
            }
            StoreError::Cancelled => Self::new("cancelled", e),
            StoreError::Checksum { .. } => Self::new("checksum", e),
            StoreError::InUse(_) => Self::new("in_use", e),
            e => Self::new("model", e),
        }
    }
}

/// A model's file, if it can be used.
pub(crate) fn ready(store: &Store, name: &str) -> Option<PathBuf> {
    match entry(name) {
        Some(entry) => (store.state(entry) == FileState::Ready).then(|| store.path(entry)),
        None => store.find(name).map(|i| i.path),
    }
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ModelView {
    name: String,
    file: String,
    /// `drafter` or `verifier` when it is used as such.
    role: Option<&'static str>,
    /// `None` for a file that the catalogue does not know, as all that only it knows.
    family: Option<String>,
    licence: Option<String>,
    parameters: String,
    quantisation: String,
    context: usize,
    bytes: u64,
    /// Whether `bytes` is known and not an estimate.
    exact: bool,
    state: &'static str,
    have_bytes: u64,
    /// With one conversation; an estimate.
    memory: u64,
    /// Why the file cannot be used, or why a download failed.
    detail: Option<String>,
}

/// What goes wrong with a pair; `code` is `tokenizer`, `memory`, `file` or `missing`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Problem {
    code: &'static str,
    text: String,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PairView {
    drafter: String,
    verifier: String,
    /// Both together, with one conversation; an estimate.
    memory: u64,
    /// Whether this is known from the files themselves and not from the catalogue.
    checked: bool,
    problem: Option<Problem>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Overview {
    models: Vec<ModelView>,
    pairs: Vec<PairView>,
    choice: Choice,
    folder: String,
    used_bytes: u64,
    free_bytes: Option<u64>,
    /// Memory that the pair could take: what is free and what the models in use hold.
    available_memory: Option<u64>,
    importing: bool,
}

/// The little that a progress event says.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ModelEvent {
    state: &'static str,
    have_bytes: u64,
    bytes: u64,
}

fn known(app: &App, entry: &Entry, choice: &Choice) -> ModelView {
    let running = app.changing().downloads.contains_key(&entry.name);
    let (bytes, exact) = app.models.bytes(entry);
    let (state, have_bytes) = match app.models.state(entry) {
        FileState::Ready => ("ready", bytes),
        FileState::Partial { bytes } if running => ("downloading", bytes),
        FileState::Missing if running => ("downloading", 0),
        FileState::Partial { bytes } => ("partial", bytes),
        FileState::Missing => ("missing", 0),
    };
    let detail = (state == "ready").then(|| Facts::read(&app.models.path(entry)).err()).flatten();
    ModelView {
        role: choice.role(&entry.name),
        name: entry.name.clone(),
        file: entry.file.clone(),
        family: Some(entry.family.clone()),
        licence: Some(entry.licence.clone()),
        parameters: entry.parameters.clone(),
        quantisation: entry.quantisation.clone(),
        context: entry.context,
        bytes,
        exact,
        state,
        have_bytes,
        memory: memory(bytes, entry.cache_bytes_per_token, CONTEXT),
        detail: detail.map(|e| e.to_string()),
    }
}

fn imported(app: &App, file: Installed, choice: &Choice) -> ModelView {
    let Installed { name, path, bytes, .. } = file;
    let facts = Facts::read(&path);
    let count = facts.as_ref().map_or(0.0, |f| f.parameters as f64);
    // The catalogue's file under another name is called what the catalogue calls it.
    let twin = catalogue().iter().find(|e| facts.is_ok() && app.models.bytes(e) == (bytes, true));
    ModelView {
        role: choice.role(&name),
        file: path.file_name().map_or_else(String::new, |f| f.to_string_lossy().into_owned()),
        name,
        family: twin.map(|e| e.family.clone()),
        licence: twin.map(|e| e.licence.clone()),
        parameters: match (twin, count) {
            (Some(e), _) => e.parameters.clone(),
            (_, 0.0) => String::new(),
            (_, n) if n < 1e9 => format!("{:.0}M", n / 1e6),
            (_, n) => format!("{:.1}B", n / 1e9),
        },
        quantisation: match (twin, &facts) {
            (Some(e), _) => e.quantisation.clone(),
            (_, Ok(facts)) => facts.quantisation.clone(),
            (_, Err(_)) => String::new(),
        },
        context: facts.as_ref().map_or(0, |f| f.max_context),
        bytes,
        exact: true,
        state: if facts.is_ok() { "ready" } else { "failed" },
        have_bytes: bytes,
        memory: facts.as_ref().map_or(0, |f| f.memory(CONTEXT)),
        detail: facts.err().map(|e| e.to_string()),
    }
}

/// Memory that a pair could take: what is free, and what the models in use give back.
fn room(app: &App) -> Option<u64> {
    let (drafter, edge) = {
        let now = app.changing();
        (now.drafter.is_some(), now.bundled.is_some())
    };
    let choice = app.choice();
    let held = |name: &str| {
        let path = ready(&app.models, name)?;
        Facts::read(&path).ok().map(|f| f.file_bytes)
    };
    let mut free = available_memory()?;
    if drafter {
        free += held(&choice.drafter).unwrap_or(0);
    }
    if edge {
        free += held(&choice.verifier).unwrap_or(0);
    }
    Some(free)
}

/// What one model of a pair needs, from its file or from the catalogue.
fn needs(app: &App, name: &str) -> Result<(u64, Option<Facts>), Problem> {
    if let Some(path) = ready(&app.models, name) {
        let facts = Facts::read(&path);
        let facts = facts.map_err(|e| Problem { code: "file", text: e.to_string() })?;
        return Ok((facts.memory(CONTEXT), Some(facts)));
    }
    let known = entry(name).ok_or_else(|| Problem {
        code: "missing",
        text: format!("the model {name} is not here any more; choose another"),
    })?;
    Ok((memory(app.models.bytes(known).0, known.cache_bytes_per_token, CONTEXT), None))
}

fn check(app: &App, room: Option<u64>, drafter: &str, verifier: &str) -> PairView {
    let mut view = PairView {
        drafter: drafter.to_owned(),
        verifier: verifier.to_owned(),
        memory: 0,
        checked: false,
        problem: None,
    };
    let both = needs(app, drafter).and_then(|d| Ok((d, needs(app, verifier)?)));
    let ((draft, a), (verify, b)) = match both {
        Ok(both) => both,
        Err(problem) => return PairView { problem: Some(problem), ..view },
    };
    view.memory = draft + verify;
    view.checked = a.is_some() && b.is_some();
    let family = |name: &str| entry(name).map(|e| e.family.as_str());
    let alike = match (&a, &b) {
        (Some(a), Some(b)) => a.tokenizer == b.tokenizer,
        _ => family(drafter) == family(verifier),
    };
    view.problem = if !alike {
        Some(Problem {
            code: "tokenizer",
            text: format!(
                "{drafter} and {verifier} have different tokenizers, so neither understands the \
                 other's tokens; choose two models of one family"
            ),
        })
    } else if room.is_some_and(|room| room < view.memory) {
        let mb = |bytes: u64| bytes / 1_000_000;
        Some(Problem {
            code: "memory",
            text: format!(
                "the pair takes about {} MB of memory, and {} MB are available",
                mb(view.memory),
                mb(room.unwrap_or(0))
            ),
        })
    } else {
        None
    };
    view
}

/// Everything that the manager shows. Reads headers, so it runs beside the window's thread.
#[tauri::command]
pub(crate) async fn models_overview(app: Shared<'_>) -> Answer<Overview> {
    let app = Arc::clone(&app);
    tokio::task::spawn_blocking(move || overview(&app)).await.map_err(|e| ApiError::new("model", e))
}

/// The models in use, which the window asks for while they are missing.
#[tauri::command]
pub(crate) async fn models_list(app: Shared<'_>) -> Answer<Vec<ModelView>> {
    let app = Arc::clone(&app);
    let work = move || {
        let choice = app.choice();
        // Only these two: the window asks at its start, and other files' headers take time.
        let mut names = vec![&choice.drafter, &choice.verifier];
        names.dedup();
        if cfg!(mobile) {
            // The other one is for an edge of its own.
            names.truncate(1);
        }
        names.into_iter().filter_map(|name| view(&app, name, &choice)).collect()
    };
    tokio::task::spawn_blocking(work).await.map_err(|e| ApiError::new("model", e))
}

/// One model by name; `None` for an imported file that is gone.
fn view(app: &App, name: &str, choice: &Choice) -> Option<ModelView> {
    match entry(name) {
        Some(entry) => Some(known(app, entry, choice)),
        None => app.models.find(name).map(|file| imported(app, file, choice)),
    }
}

fn views(app: &App, choice: &Choice) -> Vec<ModelView> {
    let listed = catalogue().iter().filter(|e| !e.test || app.models.state(e) == FileState::Ready);
    let own = app.models.installed().into_iter().filter(|i| i.entry.is_none());
    let listed = listed.map(|e| known(app, e, choice));
    listed.chain(own.map(|file| imported(app, file, choice))).collect()
}

fn overview(app: &App) -> Overview {
    let choice = app.choice();
    let room = room(app);
    let mut shown: Vec<_> = pairs().iter().map(|p| (&p.drafter, &p.verifier)).collect();
    if !shown.contains(&(&choice.drafter, &choice.verifier)) {
        shown.insert(0, (&choice.drafter, &choice.verifier));
    }
    let usage = app.models.usage();
    Overview {
        models: views(app, &choice),
        pairs: shown.into_iter().map(|(d, v)| check(app, room, d, v)).collect(),
        folder: app.models.folder().display().to_string(),
        used_bytes: usage.bytes,
        free_bytes: usage.free,
        available_memory: room,
        importing: app.changing().downloads.contains_key(IMPORT),
        choice,
    }
}

/// Whether two models go together.
#[tauri::command]
pub(crate) async fn models_check(app: Shared<'_>, choice: Choice) -> Answer<PairView> {
    let app = Arc::clone(&app);
    let work = move || check(&app, room(&app), &choice.drafter, &choice.verifier);
    tokio::task::spawn_blocking(work).await.map_err(|e| ApiError::new("model", e))
}

/// Uses two models from now on. `anyway` takes a pair that may not fit into memory.
#[tauri::command]
pub(crate) async fn models_choose(app: Shared<'_>, choice: Choice, anyway: bool) -> Answer<()> {
    let view = models_check(app.clone(), choice.clone()).await?;
    match view.problem {
        Some(problem) if !(anyway && problem.code == "memory") => {
            return Err(ApiError::new(problem.code, problem.text));
        }
        _ => {}
    }
    let text = serde_json::to_string(&choice).map_err(|e| ApiError::new("model", e))?;
    app.choose(choice).await?;
    app.store.set_setting(CHOICE, &text).await?;
    Ok(())
}

fn in_catalogue(name: &str) -> Answer<&'static Entry> {
    entry(name).ok_or_else(|| ApiError::new("model", format!("no model is called {name}")))
}

/// Downloads and reports until the model is ready. A model that is being downloaded is joined.
#[tauri::command]
pub(crate) async fn model_download(
    app: Shared<'_>,
    name: String,
    on_event: Channel<ModelEvent>,
) -> Answer<()> {
    let known = in_catalogue(&name)?;
    let work = move |store: &Store, flag: &AtomicBool, tell: &mut dyn FnMut(Progress)| {
        store.download(known, flag, tell).map(|_| ())
    };
    transfer(Arc::clone(&app), name, on_event, work).await
}

/// Lets a person choose a file and takes it into the folder; `None` when none was chosen.
#[tauri::command]
pub(crate) async fn model_import(
    app: Shared<'_>,
    on_event: Channel<ModelEvent>,
) -> Answer<Option<String>> {
    let app = Arc::clone(&app);
    let Some(path) = choose_file(&app).await? else { return Ok(None) };
    let (done, name) = tokio::sync::oneshot::channel();
    let work = move |store: &Store, flag: &AtomicBool, tell: &mut dyn FnMut(Progress)| {
        let model = store.import(&path, flag, tell)?;
        let _ = done.send(model.name);
        Ok(())
    };
    transfer(app, IMPORT.into(), on_event, work).await?;
    Ok(name.await.ok())
}

/// The system's dialog; where there is none, and in tests, the environment names the file.
async fn choose_file(app: &App) -> Answer<Option<PathBuf>> {
    if let Some(path) = std::env::var_os("TANDEM_IMPORT_FILE") {
        return Ok(Some(path.into()));
    }
    let (chosen, choice) = tokio::sync::oneshot::channel();
    app.handle.dialog().file().add_filter("GGUF", &["gguf"]).pick_file(move |file| {
        let _ = chosen.send(file);
    });
    match choice.await.ok().flatten() {
        None => Ok(None),
        Some(file) => {
            let path = file.into_path();
            Ok(Some(path.map_err(|_| ApiError::new("model", "this is no file on this device"))?))
        }
    }
}

/// Runs a download or an import on its own thread, with progress a few times a second.
async fn transfer(
    app: Arc<App>,
    name: String,
    watcher: Channel<ModelEvent>,
    work: impl FnOnce(&Store, &AtomicBool, &mut dyn FnMut(Progress)) -> Result<(), StoreError>
    + Send
    + 'static,
) -> Answer<()> {
    // A second request for the same file waits for the first on the store's own lock.
    let flag = Arc::clone(app.changing().downloads.entry(name.clone()).or_default());
    let (store, cancel) = (app.models.clone(), Arc::clone(&flag));
    let work = tauri::async_runtime::spawn_blocking(move || {
        let mut last: Option<Instant> = None;
        work(&store, &cancel, &mut |p: Progress| {
            let often = last.is_some_and(|t| t.elapsed() < Duration::from_millis(150));
            if often && p.done < p.total {
                return;
            }
            last = Some(Instant::now());
            let state = if p.phase == Phase::Verifying { "verifying" } else { "downloading" };
            let _ = watcher.send(ModelEvent { state, have_bytes: p.done, bytes: p.total });
        })
    });
    let result = work.await.map_err(|e| ApiError::new("model", e))?;
    {
        let mut now = app.changing();
        // After a pause and a new start the name stands for another download.
        if now.downloads.get(&name).is_some_and(|now| Arc::ptr_eq(now, &flag)) {
            now.downloads.remove(&name);
        }
    }
    match result {
        Ok(()) => {
            tauri::async_runtime::spawn(async move { app.wake().await });
            Ok(())
        }
        Err(e) => Err(e.into()),
    }
}

/// Stops a download; what came stays. Without a name: an import, of which nothing stays.
#[tauri::command]
pub(crate) fn model_cancel(app: Shared<'_>, name: Option<String>) {
    if let Some(flag) = app.changing().downloads.remove(name.as_deref().unwrap_or(IMPORT)) {
        flag.store(true, Ordering::Relaxed);
    }
}

/// Deletes what a stopped download left.
#[tauri::command]
pub(crate) async fn model_discard(app: Shared<'_>, name: String) -> Answer<()> {
    if app.changing().downloads.contains_key(&name) {
        return Err(ApiError::new("downloading", "this model is being downloaded; pause it first"));
    }
    let known = in_catalogue(&name)?;
    Ok(app.models.discard(known)?)
}

/// Deletes a model's file, unless it is used.
#[tauri::command]
pub(crate) async fn model_delete(app: Shared<'_>, name: String) -> Answer<()> {
    let choice = app.choice();
    if [&choice.drafter, &choice.verifier].contains(&&name) {
        let text = format!("{name} is the model in use; choose another pair first");
        return Err(ApiError::new("in_use", text));
    }
    Ok(app.models.delete(&name)?)
}
