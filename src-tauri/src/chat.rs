//! One running answer: from the question's row to the `done` event.

use crate::api::{Attached, ChatEvent, Sent, What};
use crate::state::{ApiError, App};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tandem_device::store::{Message, Stats, Status};
use tandem_device::{Event, Finish, Gamma, Request, generate, new_seed};
use tandem_inference::{ChatMessage, Role};
use tauri::ipc::Channel;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How long a lost edge is waited for before the drafter goes on alone.
const PATIENCE: Duration = Duration::from_secs(8);

/// An answer that is being written, and who watches.
pub(crate) struct Running {
    pub cancel: CancellationToken,
    /// Cancelled when the last event is out.
    pub over: CancellationToken,
    inner: Mutex<Inner>,
}

struct Inner {
    seq: u64,
    message: Message,
    watchers: Vec<Channel<ChatEvent>>,
}

impl Running {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn emit(&self, what: What) {
        let mut inner = self.inner();
        inner.seq += 1;
        match &what {
            What::Text { text } => inner.message.content.push_str(text),
            What::Stats { stats } => inner.message.stats = Some(stats.clone()),
            What::Done { message } => inner.message = message.clone(),
            What::Notice { .. } => {}
        }
        let event = ChatEvent { seq: inner.seq, what };
        inner.watchers.retain(|w| w.send(event.clone()).is_ok());
    }

    /// One more watcher: the answer so far and the number of the last event in it.
    pub(crate) fn attach(&self, watcher: Channel<ChatEvent>) -> Attached {
        let mut inner = self.inner();
        inner.watchers.push(watcher);
        Attached { answer_message: inner.message.clone(), seq: inner.seq }
    }
}

/// Stores the question and starts the answer.
pub(crate) async fn send(
    app: Arc<App>,
    conversation: i64,
    text: String,
    watcher: Channel<ChatEvent>,
) -> Result<Sent, ApiError> {
    if text.trim().is_empty() {
        return Err(ApiError::new("empty", "there is nothing to send"));
    }
    let Some(drafter) = app.changing().drafter.clone() else {
        return Err(ApiError::new("drafter", "the model on this device is not ready yet"));
    };
    if app.changing().running.contains_key(&conversation) {
        return Err(ApiError::new("busy", "an answer is still being written; stop it first"));
    }
    let settings = app.settings();
    let mut messages = Vec::new();
    if !settings.system_prompt.trim().is_empty() {
        messages.push(ChatMessage { role: Role::System, content: settings.system_prompt.clone() });
    }
    for old in app.store.messages(conversation).await? {
        let role = if old.role == "user" { Role::User } else { Role::Assistant };
        messages.push(ChatMessage { role, content: old.content });
    }
    messages.push(ChatMessage { role: Role::User, content: text.clone() });
    let session = app.store.session(conversation).await?;
    let (user_message, answer_message) = app.store.ask(conversation, &text).await?;
    let running = Arc::new(Running {
        cancel: CancellationToken::new(),
        over: CancellationToken::new(),
        inner: Mutex::new(Inner {
            seq: 0,
            message: answer_message.clone(),
            watchers: vec![watcher],
        }),
    });
    app.changing().running.insert(conversation, Arc::clone(&running));
    let sent = Sent { user_message, answer_message: answer_message.clone() };
    tauri::async_runtime::spawn(async move {
        let tokenizer = drafter.model().tokenizer();
        let done = match tokenizer.encode_chat(&messages) {
            Ok(prompt) => {
                let request = Request {
                    session,
                    prompt,
                    sampling: settings.sampling(),
                    seed: new_seed(),
                    mode: settings.mode,
                    gamma: settings.gamma.map_or(Gamma::Auto, Gamma::Fixed),
                    max_tokens: settings.max_tokens,
                    when_edge_lost: settings.when_edge_lost,
                    patience: PATIENCE,
                };
                write(&app, &running, &drafter, request, answer_message.id).await
            }
            Err(e) => Err(e.to_string()),
        };
        let ended = match done {
            Ok((finish, rest)) => {
                let stopped = finish == Finish::Cancelled;
                let status = if stopped { Status::Stopped } else { Status::Done };
                app.store.finish(answer_message.id, status, Some(finish), &rest, None).await
            }
            Err(problem) => {
                let (id, problem) = (answer_message.id, Some(problem.as_str()));
                app.store.finish(id, Status::Failed, None, "", problem).await
            }
        };
        // A row that cannot be written any more still ends for whoever watches.
        let message = ended.unwrap_or_else(|e| {
            let mut message = running.inner().message.clone();
            message.status = Status::Failed;
            message.error = Some(e.to_string());
            message
        });
        app.changing().running.remove(&conversation);
        running.emit(What::Done { message });
        running.over.cancel();
    });
    Ok(sent)
}

/// Stores and shows each round; returns how it ended and the text that was held back.
async fn write(
    app: &App,
    running: &Running,
    drafter: &tandem_device::Drafter,
    request: Request,
    message: i64,
) -> Result<(Finish, String), String> {
    let link = app.changing().link.clone();
    let (events, mut inbox) = mpsc::unbounded_channel();
    let (drafter, cancel) = (drafter.clone(), running.cancel.clone());
    let work = tauri::async_runtime::spawn(async move {
        generate(&drafter, link.as_ref(), &request, &cancel, |event| {
            let _ = events.send(event);
        })
        .await
    });
    let mut failed = None;
    while let Some(event) = inbox.recv().await {
        match event {
            Event::Round { record, text, totals, .. } if failed.is_none() => {
                if let Err(e) = app.store.add_round(message, &record, &text, &totals).await {
                    failed = Some(e.to_string());
                    running.cancel.cancel();
                    continue;
                }
                if !text.is_empty() {
                    running.emit(What::Text { text });
                }
                if let Some(stats) = Stats::of(&totals, None) {
                    running.emit(What::Stats { stats });
                }
            }
            Event::Notice { warning, text } => {
                let level = if warning { "warning" } else { "info" };
                running.emit(What::Notice { level, text });
            }
            Event::Round { .. } | Event::Prefill { .. } => {}
        }
    }
    let answer = work.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    match failed {
        Some(problem) => Err(problem),
        None => Ok((answer.finish, answer.rest)),
    }
}
