//! The app: commands, events and state around `tandem-device`.
//!
//! **Invariant: thin.** The webview gets plain values and no socket, file or SQL of its own; what an
//! answer is and how it is stored is known in `tandem-device` alone.

// Tauri's entry point for phones brings a function of its own.
#![cfg_attr(mobile, allow(missing_docs))]

mod about;
mod api;
mod boxes;
mod chat;
mod commands;
mod conversations;
#[cfg(desktop)]
mod desktop;
mod edge;
mod metrics;
mod models;
mod phases;
mod startup;
mod state;
mod system;
mod window;

use state::App;
use std::sync::Arc;
use tauri::Manager;

/// Runs the app until its window is closed.
///
/// # Panics
/// If the system has no webview, with a message that says so.
#[cfg_attr(mobile, tauri::mobile_entry_point)]
pub fn run() {
    phases::begin();
    // On a phone it is the system that says where files go, later.
    #[cfg(desktop)]
    about::start_log(&startup::database(None));
    let builder = tauri::Builder::default().plugin(tauri_plugin_tandem_mobile::init());
    #[cfg(desktop)]
    let builder = desktop::plugins(builder);
    #[cfg(mobile)]
    let builder = builder.plugin(tauri_plugin_barcode_scanner::init());
    let app = builder
        // For file dialogs, opened from Rust: the window has no permission for them.
        .plugin(tauri_plugin_dialog::init())
        .setup(|tauri| {
            #[cfg(mobile)]
            about::start_log(&startup::database(Some(tauri.handle())));
            tauri.manage(startup::Startup::default());
            // The window first, and then what it waits for; nothing of it on this thread, which also
            // hands the page to the webview.
            window::create(tauri)?;
            let handle = tauri.handle().clone();
            tauri::async_runtime::spawn(async move { startup::open(&handle).await });
            Ok(())
        })
        .invoke_handler(tauri::generate_handler![
            commands::app_status,
            commands::edge_restart,
            commands::conversations_list,
            commands::conversation_create,
            commands::send_message,
            commands::generation_attach,
            commands::stop_generation,
            conversations::conversation_change,
            conversations::conversation_delete,
            conversations::conversation_restore,
            conversations::conversation_search,
            conversations::conversations_export,
            conversations::conversations_import,
            conversations::messages_list,
            conversations::message_edit,
            conversations::answer_again,
            conversations::answer_continue,
            conversations::branch_choose,
            conversations::context_usage,
            startup::startup,
            startup::painted,
            system::notice_words,
            models::models_list,
            models::models_overview,
            models::models_check,
            models::models_choose,
            models::model_download,
            models::model_cancel,
            models::model_discard,
            models::model_delete,
            models::model_import,
            about::diagnostics,
            #[cfg(desktop)]
            desktop::notify,
            commands::settings_get,
            commands::settings_set,
            boxes::boxes_list,
            boxes::boxes_discover,
            boxes::box_pair,
            boxes::box_choose,
            boxes::box_rename,
            boxes::box_test,
            boxes::box_remove,
            metrics::answer_split,
            metrics::metrics_choices,
            metrics::metrics_read,
            metrics::metrics_export,
            metrics::metrics_export_image,
            metrics::benchmarks_list,
            metrics::benchmark_delete,
            metrics::benchmark_start,
            metrics::benchmark_state,
            metrics::benchmark_cancel,
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
