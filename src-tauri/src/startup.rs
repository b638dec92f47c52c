//! Opens what the app needs. Where that fails the window says why, and can try again.

use crate::api::Settings;
use crate::models::{self, Choice};
use crate::state::App;
use crate::{phases, system, window};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tandem_device::store::{Store, default_path};
use tandem_inference::store::{Store as ModelStore, StoreError};
use tauri::{AppHandle, Manager, State};
use tokio::sync::watch;

/// The store's file. A phone gives each app a folder of its own.
pub(crate) fn database(#[allow(unused_variables)] handle: Option<&AppHandle>) -> PathBuf {
    #[cfg(mobile)]
    if let Some(Ok(folder)) = handle.map(|handle| handle.path().app_data_dir()) {
        return folder.join("tandem.db");
    }
    default_path()
}

/// The models' folder. On a phone not the cache, which the system may empty.
fn model_files(database: &Path) -> Result<ModelStore, StoreError> {
    if cfg!(mobile) {
        return Ok(ModelStore::at(database.with_file_name("models")));
    }
    ModelStore::open_default()
}

/// Models are loaded when the window shows something, or after this time: they take all processors, and a
/// window that nobody sees paints nothing.
const UNSEEN: Duration = Duration::from_secs(15);

/// How far the start is.
#[derive(Default)]
pub(crate) struct Startup {
    /// What came of opening; `None` while it goes on.
    outcome: watch::Sender<Option<Outcome>>,
    /// Whether the window has shown its content.
    painted: watch::Sender<bool>,
    /// One opens at a time.
    opening: tokio::sync::Mutex<()>,
}

/// Why the app is not there, for people.
type Outcome = Result<(), String>;

/// Opens the store and starts the rest, unless that is done already.
pub(crate) async fn open(handle: &AppHandle) -> Outcome {
    let startup = handle.state::<Startup>();
    let _one = startup.opening.lock().await;
    let outcome = match handle.try_state::<Arc<App>>() {
        Some(_) => Ok(()),
        None => try_open(handle).await.map_err(|e| e.to_string()),
    };
    if let Err(e) = &outcome {
        tracing::error!("the app cannot start: {e}");
    }
    startup.outcome.send_replace(Some(outcome.clone()));
    outcome
}

/// Starts what goes on for as long as the app runs.
fn begin(handle: &AppHandle, app: App) {
    let app = Arc::new(app);
    handle.manage(Arc::clone(&app));
    tauri::async_runtime::spawn(system::follow(Arc::clone(&app)));
    tauri::async_runtime::spawn(system::keep_awake(Arc::clone(&app)));
    let mut painted = handle.state::<Startup>().painted.subscribe();
    tauri::async_runtime::spawn(async move {
        if tokio::time::timeout(UNSEEN, painted.wait_for(|seen| *seen)).await.is_err() {
            tracing::warn!("the window shows nothing yet; models are loaded all the same");
        }
        app.wake().await;
    });
}

async fn try_open(handle: &AppHandle) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let database = database(Some(handle));
    let store = Store::open(&database).await?;
    store.recover().await?;
    store.purge(0).await?;
    let kept = store.setting("settings").await?;
    let settings = kept.and_then(|text| serde_json::from_str(&text).ok());
    let choice = Choice::kept(store.setting(models::CHOICE).await?.as_deref());
    let files = model_files(&database)?;
    let active = match crate::boxes::last_used(&store).await {
        Some(active) => active,
        None => store.one_box(1).await?.into(),
    };
    let settings: Settings = settings.unwrap_or_default();
    window::keep_theme(&database, &settings.theme);
    phases::reached("store open");
    let store = (store, database);
    begin(handle, App::new(handle.clone(), store, files, settings, active, choice));
    Ok(())
}

/// Why the app is not there, when it is known; with `again` it tries once more.
#[tauri::command]
pub(crate) async fn startup(
    handle: AppHandle,
    startup: State<'_, Startup>,
    again: bool,
) -> Result<Option<String>, ()> {
    if again {
        return Ok(open(&handle).await.err());
    }
    let mut outcome = startup.outcome.subscribe();
    let known = outcome.wait_for(Option::is_some).await.map_err(|_| ())?;
    Ok(known.clone().and_then(Outcome::err))
}

/// The window has shown its content.
#[tauri::command]
pub(crate) fn painted(startup: State<'_, Startup>) {
    phases::reached("content painted");
    startup.painted.send_replace(true);
}
