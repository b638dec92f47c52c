//! Downloads of model files. A download belongs to the app, not to the window that asked for it.

use crate::api::ModelEntry;
use crate::state::{ApiError, App, model_of};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tandem_inference::store::{Phase, Progress, StoreError, catalogue};
use tauri::ipc::Channel;

/// The models that this device uses.
pub(crate) fn list(app: &App) -> Vec<ModelEntry> {
    let running = app.changing();
    ["drafter", "verifier"]
        .iter()
        .filter_map(|role| model_of(role))
        .map(|e| ModelEntry::of(e, app.models.state(e), running.downloads.contains_key(&e.name)))
        .collect()
}

/// Downloads and reports until the model is ready.
pub(crate) async fn download(
    app: Arc<App>,
    name: String,
    watcher: Channel<ModelEntry>,
) -> Result<(), ApiError> {
    let entry = catalogue()
        .iter()
        .find(|e| e.name == name)
        .ok_or_else(|| ApiError::new("model", format!("no model is called {name}")))?;
    let cancel = {
        let mut now = app.changing();
        let flag = now.downloads.entry(name.clone()).or_default();
        Arc::clone(flag)
    };
    // A second request for the same file waits for the first on the store's own lock.
    let (store, flag) = (app.models.clone(), Arc::clone(&cancel));
    let report = move |state: &'static str, have: u64, detail: Option<String>| {
        let mut model = ModelEntry::of(entry, tandem_inference::store::State::Missing, true);
        model.state = state;
        model.have_bytes = have;
        model.detail = detail;
        let _ = watcher.send(model);
    };
    let tell = report.clone();
    let work = tauri::async_runtime::spawn_blocking(move || {
        let mut last: Option<Instant> = None;
        store.download(entry, &flag, &mut |p: Progress| {
            let often = last.is_some_and(|t| t.elapsed() < Duration::from_millis(150));
            if often && p.done < p.total {
                return;
            }
            last = Some(Instant::now());
            let verifying = p.phase == Phase::Verifying;
            tell(if verifying { "verifying" } else { "downloading" }, p.done, None);
        })
    });
    let result = work.await.map_err(|e| ApiError::new("model", e))?;
    app.changing().downloads.remove(&name);
    match result {
        Ok(_) => {
            report("ready", entry.bytes, None);
            tauri::async_runtime::spawn(async move { app.wake().await });
            Ok(())
        }
        Err(StoreError::Cancelled) => {
            let state = ModelEntry::of(entry, app.models.state(entry), false);
            report(state.state, state.have_bytes, None);
            Err(ApiError::new("cancelled", StoreError::Cancelled))
        }
        Err(e) => {
            let have = ModelEntry::of(entry, app.models.state(entry), false).have_bytes;
            report("failed", have, Some(e.to_string()));
            Err(ApiError::new("model", e))
        }
    }
}

pub(crate) fn cancel(app: &App, name: &str) {
    if let Some(flag) = app.changing().downloads.get(name) {
        flag.store(true, Ordering::Relaxed);
    }
}
