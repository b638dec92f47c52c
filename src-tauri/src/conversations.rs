//! Commands on conversations: branches, choices, search, deletion with undo, files.

use crate::api::{ChatEvent, Sent};
use crate::chat::{self, Wanted};
use crate::state::{ApiError, App};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tandem_device::store::{
    Change, Conversation, FILE_LIMIT, Hit, ImportError, Imported, Message, Saved, Status,
};
use tauri::ipc::Channel;
use tauri::{AppHandle, State};
use tauri_plugin_dialog::DialogExt;

type Shared<'a> = State<'a, Arc<App>>;
type Answer<T> = Result<T, ApiError>;

/// A folder that takes the place of the system's dialogs, for tests: a file is saved there under
/// its proposed name, and the file `import` with any ending is opened.
const FILES: &str = "TANDEM_DIALOG_DIR";
/// How long a deleted conversation can be brought back while the program runs.
const UNDO_MS: i64 = 10 * 60 * 1000;

impl From<ImportError> for ApiError {
    fn from(e: ImportError) -> Self {
        match e {
            ImportError::Unreadable(why) => {
                let text =
                    "this file is no conversation that Tandem can read; nothing was imported";
                Self::because("import_unreadable", text, why)
            }
            ImportError::Damaged(at, why) => {
                let text =
                    format!("conversation {at} in the file is damaged; nothing was imported");
                Self::because("import_damaged", text, why)
            }
            ImportError::Foreign => Self::new("import_foreign", e),
            ImportError::Store(e) => e.into(),
            e => Self::new("import", e),
        }
    }
}

/// Tokens of what the models would read, and how many they can.
#[derive(Serialize)]
pub(crate) struct Usage {
    used: usize,
    context: usize,
}

#[tauri::command]
pub(crate) async fn conversation_change(
    app: Shared<'_>,
    id: i64,
    change: Change,
) -> Answer<Conversation> {
    Ok(app.store.change(id, &change).await?)
}

#[tauri::command]
pub(crate) async fn conversation_delete(app: Shared<'_>, id: i64) -> Answer<()> {
    let running = app.changing().running.get(&id).cloned();
    if let Some(running) = running {
        running.cancel.cancel();
        let _ = tokio::time::timeout(Duration::from_secs(5), running.over.cancelled()).await;
    }
    app.store.delete_conversation(id).await?;
    app.store.purge(UNDO_MS).await?;
    Ok(())
}

#[tauri::command]
pub(crate) async fn conversation_restore(app: Shared<'_>, id: i64) -> Answer<Conversation> {
    Ok(app.store.restore_conversation(id).await?)
}

#[tauri::command]
pub(crate) async fn conversation_search(app: Shared<'_>, query: String) -> Answer<Vec<Hit>> {
    Ok(app.store.search(&query, 50).await?)
}

#[tauri::command]
pub(crate) async fn messages_list(app: Shared<'_>, conversation_id: i64) -> Answer<Vec<Message>> {
    chat::end_late(&app, conversation_id).await;
    let running = app.changing().running.contains_key(&conversation_id);
    let mut messages = app.store.messages(conversation_id).await?;
    if !running {
        // Its end cannot be written yet, on a full disk perhaps.
        for message in messages.iter_mut().filter(|m| m.status == Status::Streaming) {
            message.status = Status::Interrupted;
        }
    }
    Ok(messages)
}

#[tauri::command]
pub(crate) async fn message_edit(
    app: Shared<'_>,
    conversation_id: i64,
    message_id: i64,
    text: String,
    on_event: Channel<ChatEvent>,
) -> Answer<Sent> {
    chat::start(Arc::clone(&app), conversation_id, Wanted::Edit(message_id, text), on_event).await
}

#[tauri::command]
pub(crate) async fn answer_again(
    app: Shared<'_>,
    conversation_id: i64,
    message_id: i64,
    on_event: Channel<ChatEvent>,
) -> Answer<Sent> {
    chat::start(Arc::clone(&app), conversation_id, Wanted::Again(message_id), on_event).await
}

#[tauri::command]
pub(crate) async fn answer_continue(
    app: Shared<'_>,
    conversation_id: i64,
    message_id: i64,
    on_event: Channel<ChatEvent>,
) -> Answer<Sent> {
    chat::start(Arc::clone(&app), conversation_id, Wanted::Rest(message_id), on_event).await
}

/// Shows the branch with a message.
#[tauri::command]
pub(crate) async fn branch_choose(app: Shared<'_>, message_id: i64) -> Answer<()> {
    Ok(app.store.choose(message_id).await?)
}

/// Nothing while the tokenizer is not there yet.
#[tauri::command]
pub(crate) async fn context_usage(app: Shared<'_>, conversation_id: i64) -> Answer<Option<Usage>> {
    let Some(drafter) = app.changing().drafter.clone() else { return Ok(None) };
    let row = app.store.conversation(conversation_id).await?;
    let path = app.store.messages(conversation_id).await?;
    let messages = chat::chat_messages(row.system_prompt.as_deref(), &app.settings(), &path);
    let used = chat::encode(&drafter, messages).await?.len();
    Ok(Some(Usage { used, context: drafter.context() }))
}

/// Asks where to and writes; says where, or nothing if the person changed their mind.
#[tauri::command]
pub(crate) async fn conversations_export(
    handle: AppHandle,
    app: Shared<'_>,
    id: Option<i64>,
    markdown: bool,
) -> Answer<Option<String>> {
    let saved = app.store.export(id).await?;
    let name = match &saved.conversations[..] {
        [one] if id.is_some() => file_name(&one.title),
        _ => "tandem-conversations".into(),
    };
    let (text, ending) = if markdown {
        (saved.to_markdown(), "md")
    } else {
        (serde_json::to_string(&saved).map_err(|e| ApiError::new("export", e))?, "json")
    };
    let Some(path) = ask_where(&handle, format!("{name}.{ending}"), ending).await else {
        return Ok(None);
    };
    let failed = |e: std::io::Error| {
        ApiError::new("export", format!("{} cannot be written: {e}", path.display()))
    };
    // Beside it first: a full disk leaves an older file as it was.
    let part = path.with_extension(format!("{ending}.part"));
    let written = match tokio::fs::write(&part, text).await {
        Ok(()) => tokio::fs::rename(&part, &path).await,
        Err(e) => Err(e),
    };
    if let Err(e) = written {
        let _ = tokio::fs::remove_file(&part).await;
        return Err(failed(e));
    }
    Ok(Some(path.display().to_string()))
}

/// Asks for a file and adds the conversations that are not here yet.
#[tauri::command]
pub(crate) async fn conversations_import(
    handle: AppHandle,
    app: Shared<'_>,
) -> Answer<Option<Imported>> {
    let Some(path) = ask_which(&handle).await else { return Ok(None) };
    let failed = |e: std::io::Error| {
        ApiError::new("import", format!("{} cannot be read: {e}", path.display()))
    };
    if tokio::fs::metadata(&path).await.map_err(failed)?.len() > FILE_LIMIT {
        return Err(ImportError::TooLarge.into());
    }
    let bytes = tokio::fs::read(&path).await.map_err(failed)?;
    let markdown = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("md"));
    let parsed = tauri::async_runtime::spawn_blocking(move || {
        if markdown { Saved::from_markdown(&bytes) } else { Saved::from_json(&bytes) }
    });
    let saved = parsed.await.map_err(|e| ApiError::new("import", e))??;
    Ok(Some(app.store.import(&saved).await?))
}

/// A title as a file's name.
fn file_name(title: &str) -> String {
    let kept = |c: char| if c.is_alphanumeric() || "-_".contains(c) { c } else { ' ' };
    let name: String = title.chars().take(60).map(kept).collect();
    let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
    if name.is_empty() { "conversation".into() } else { name }
}

async fn ask_where(handle: &AppHandle, name: String, ending: &str) -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(FILES) {
        return Some(Path::new(&folder).join(name));
    }
    let (tell, told) = tokio::sync::oneshot::channel();
    let dialog = handle.dialog().file().set_file_name(name).add_filter(ending, &[ending]);
    dialog.save_file(move |path| drop(tell.send(path)));
    told.await.ok()??.into_path().ok()
}

async fn ask_which(handle: &AppHandle) -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(FILES) {
        let files = std::fs::read_dir(folder).ok()?.flatten().map(|f| f.path());
        return files.into_iter().find(|f| f.file_stem().is_some_and(|n| n == "import"));
    }
    let (tell, told) = tokio::sync::oneshot::channel();
    let dialog = handle.dialog().file().add_filter("Tandem", &["json", "md"]);
    dialog.pick_file(move |path| drop(tell.send(path)));
    told.await.ok()??.into_path().ok()
}
