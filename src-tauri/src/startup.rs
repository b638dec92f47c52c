//! Opens what the app needs. Where that fails the window says why, and can try again.

use crate::models::{self, Choice};
use crate::state::App;
use std::sync::{Arc, Mutex, PoisonError};
use tandem_device::store::{Store, default_path};
use tauri::{AppHandle, Manager, State};

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
    let store = Store::open(&default_path()).await?;
    store.recover().await?;
    store.purge(0).await?;
    let kept = store.setting("settings").await?;
    let settings = kept.and_then(|text| serde_json::from_str(&text).ok());
    let choice = Choice::kept(store.setting(models::CHOICE).await?.as_deref());
    let files = tandem_inference::store::Store::open_default()?;
    let active = match crate::boxes::last_used(&store).await {
        Some(active) => active,
        None => store.one_box(1).await?.into(),
    };
    Ok(App::new(handle.clone(), store, files, settings.unwrap_or_default(), active, choice))
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
