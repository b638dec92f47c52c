//! The commands, one thin function each.

use crate::api::{Attached, ChatEvent, Sent, Settings, Status};
use crate::chat;
use crate::state::{ApiError, App};
use std::sync::{Arc, PoisonError};
use tandem_device::store::Conversation;
use tauri::State;
use tauri::ipc::Channel;

type Shared<'a> = State<'a, Arc<App>>;
type Answer<T> = Result<T, ApiError>;

#[tauri::command]
pub(crate) fn app_status(app: Shared<'_>) -> Status {
    app.status()
}

/// Starts the app's own edge once more, after it has kept ending.
#[tauri::command]
pub(crate) async fn edge_restart(app: Shared<'_>) -> Answer<()> {
    {
        let mut now = app.changing();
        now.edge_restarts = crate::edge::Restarts::default();
        now.edge_problem = None;
    }
    app.wake().await;
    Ok(())
}

#[tauri::command]
pub(crate) async fn conversations_list(app: Shared<'_>) -> Answer<Vec<Conversation>> {
    Ok(app.store.conversations().await?)
}

#[tauri::command]
pub(crate) async fn conversation_create(app: Shared<'_>, title: String) -> Answer<Conversation> {
    Ok(app.store.create_conversation(&title).await?)
}

#[tauri::command]
pub(crate) async fn send_message(
    app: Shared<'_>,
    conversation_id: i64,
    text: String,
    on_event: Channel<ChatEvent>,
) -> Answer<Sent> {
    let wanted = chat::Wanted::Question(text);
    chat::start(Arc::clone(&app), conversation_id, wanted, on_event).await
}

#[tauri::command]
pub(crate) fn generation_attach(
    app: Shared<'_>,
    conversation_id: i64,
    on_event: Channel<ChatEvent>,
) -> Option<Attached> {
    let running = app.changing().running.get(&conversation_id).cloned();
    running.map(|running| running.attach(on_event))
}

#[tauri::command]
pub(crate) fn stop_generation(app: Shared<'_>, conversation_id: i64) {
    if let Some(running) = app.changing().running.get(&conversation_id) {
        running.cancel.cancel();
    }
}

#[tauri::command]
pub(crate) fn settings_get(app: Shared<'_>) -> Settings {
    app.settings()
}

#[tauri::command]
pub(crate) async fn settings_set(app: Shared<'_>, settings: Settings) -> Answer<Settings> {
    if let Some(problem) = settings.problem() {
        return Err(ApiError::new("settings", problem));
    }
    let text = serde_json::to_string(&settings).map_err(|e| ApiError::new("settings", e))?;
    app.store.set_setting("settings", &text).await?;
    crate::window::keep_theme(&app.database, &settings.theme);
    *app.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings.clone();
    app.tell_status();
    Ok(settings)
}
