//! The app: commands, events and state around `tandem-device`.
//!
//! **Invariant: thin.** The webview gets plain values and no socket, file or SQL of its own; what an
//! answer is and how it is stored is known in `tandem-device` alone.

mod api;
mod chat;
mod commands;
mod edge;
mod models;
mod state;

use state::App;
use std::sync::Arc;
use tandem_device::store::{Store, default_path};
use tauri::Manager;

/// Runs the app until its window is closed.
///
/// # Panics
/// If the system has no webview, with a message that says so.
#[cfg_attr(mobile, tauri::mobile_entry_point)]
pub fn run() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let app = tauri::Builder::default()
        // For the file dialog of an import, opened from Rust: the window has no permission for it.
        .plugin(tauri_plugin_dialog::init())
        .setup(|tauri| {
            let handle = tauri.handle().clone();
            let app = tauri::async_runtime::block_on(async {
                let store = Store::open(&default_path()).await?;
                store.recover().await?;
                let kept = store.setting("settings").await?;
                let settings = kept.and_then(|text| serde_json::from_str(&text).ok());
                let choice = models::Choice::kept(store.setting(models::CHOICE).await?.as_deref());
                let models = tandem_inference::store::Store::open_default()?;
                let settings = settings.unwrap_or_default();
                let app = App::new(handle, store, models, settings, choice);
                Ok::<_, Box<dyn std::error::Error>>(app)
            })?;
            let app = Arc::new(app);
            tauri.manage(Arc::clone(&app));
            // Models load behind the window.
            tauri::async_runtime::spawn(async move { app.wake().await });
            Ok(())
        })
        .invoke_handler(tauri::generate_handler![
            commands::app_status,
            commands::conversations_list,
            commands::conversation_create,
            commands::conversation_rename,
            commands::conversation_delete,
            commands::messages_list,
            commands::send_message,
            commands::generation_attach,
            commands::stop_generation,
            models::models_list,
            models::models_overview,
            models::models_check,
            models::models_choose,
            models::model_download,
            models::model_cancel,
            models::model_discard,
            models::model_delete,
            models::model_import,
            commands::settings_get,
            commands::settings_set,
        ])
        .build(tauri::generate_context!());
    match app {
        Ok(app) => app.run(|handle, event| {
            if let tauri::RunEvent::Exit = event
                && let Some(app) = handle.try_state::<Arc<App>>()
            {
                // Ends the bundled edge.
                app.changing().bundled = None;
            }
        }),
        Err(e) => {
            tracing::error!("the app cannot start: {e}");
            std::process::exit(1);
        }
    }
}
