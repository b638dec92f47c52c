//! What only a desktop has: one instance, a window that stays where it was, and a note for the person
//! who looks at something else.

use crate::state::ApiError;
use tauri::plugin::TauriPlugin;
use tauri::{AppHandle, Builder, Manager, Wry};
use tauri_plugin_notification::NotificationExt;

/// Characters of a notification's texts at most.
const LONGEST: usize = 200;

pub(crate) fn plugins(builder: Builder<Wry>) -> Builder<Wry> {
    let builder = match single_instance() {
        // First, so that a second instance opens nothing.
        Some(plugin) => builder.plugin(plugin),
        None => builder,
    };
    builder
        .plugin(tauri_plugin_window_state::Builder::default().build())
        .plugin(tauri_plugin_notification::init())
}

/// A second start shows the first window. Another data folder is another app, and without a session
/// bus (Linux) two starts cannot know of each other; then SQLite's locks keep the data whole.
fn single_instance() -> Option<TauriPlugin<Wry>> {
    let own_folder = std::env::var_os("TANDEM_DATA_DIR").is_some_and(|v| !v.is_empty());
    if own_folder || (cfg!(target_os = "linux") && !session_bus()) {
        return None;
    }
    Some(tauri_plugin_single_instance::init(|app, _, _| {
        if let Some(window) = app.get_webview_window("main") {
            let _ = window.unminimize();
            let _ = window.show();
            let _ = window.set_focus();
        }
    }))
}

fn session_bus() -> bool {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(std::path::PathBuf::from);
    std::env::var_os("DBUS_SESSION_BUS_ADDRESS").is_some_and(|v| !v.is_empty())
        || runtime.is_some_and(|folder| folder.join("bus").exists())
}

/// Tells a person who looks at another window; whether it was shown. The window brings the words, in
/// the person's language.
#[tauri::command]
pub(crate) async fn notify(app: AppHandle, title: String, body: String) -> Result<bool, ApiError> {
    let seen = |w: &tauri::WebviewWindow| w.is_focused().unwrap_or(true);
    if app.get_webview_window("main").is_none_or(|w| seen(&w)) {
        return Ok(false);
    }
    let short = |text: String| text.chars().take(LONGEST).collect::<String>();
    // Shown on a thread of its own: where no service answers, this takes a while.
    let show = move || app.notification().builder().title(short(title)).body(short(body)).show();
    let shown = tokio::task::spawn_blocking(show).await;
    let shown = shown.map_err(|e| ApiError::new("notification", e))?;
    shown.map(|()| true).map_err(|e| ApiError::new("notification", e))
}
