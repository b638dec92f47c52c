//! Opens what the app needs. Where that fails the window says why, and can try again.

use crate::models::{self, Choice};
use crate::state::App;
use crate::system;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tandem_device::store::{Store, default_path};
use tandem_inference::store::{Store as ModelStore, StoreError};
use tauri::{AppHandle, Manager, State};

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

/// Why the app is not there, for people; empty when it is.
#[derive(Default)]
pub(crate) struct Startup {
    problem: Mutex<Option<String>>,
}

/// Opens the store and starts the rest, unless that is done already.
pub(crate) async fn open(handle: &AppHandle) -> Option<String> {
    if handle.try_state::<Arc<App>>().is_some() {
        return None;
    }
    let opened = try_open(handle).await;
    let problem = match opened {
        Ok(app) => {
            let app = Arc::new(app);
            handle.manage(Arc::clone(&app));
            tauri::async_runtime::spawn(system::follow(Arc::clone(&app)));
            tauri::async_runtime::spawn(system::keep_awake(Arc::clone(&app)));
            // Models load behind the window.
            tauri::async_runtime::spawn(async move { app.wake().await });
            None
        }
        Err(e) => {
            tracing::error!("the app cannot start: {e}");
            Some(e.to_string())
        }
    };
    let startup = handle.state::<Startup>();
    *startup.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem.clone();
    problem
}

async fn try_open(handle: &AppHandle) -> Result<App, Box<dyn std::error::Error + Send + Sync>> {
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
    let (handle, store) = (handle.clone(), (store, database));
    Ok(App::new(handle, store, files, settings.unwrap_or_default(), active, choice))
}

/// Why the app is not there; with `again` it tries once more.
#[tauri::command]
pub(crate) async fn startup(
    handle: AppHandle,
    startup: State<'_, Startup>,
    again: bool,
) -> Result<Option<String>, ()> {
    if again {
        return Ok(open(&handle).await);
    }
    Ok(startup.problem.lock().unwrap_or_else(PoisonError::into_inner).clone())
}
