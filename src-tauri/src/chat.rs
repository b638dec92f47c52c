//! One running answer: from the question's row to the `done` event.

use crate::api::{Attached, ChatEvent, Sent, Settings, What};
use crate::metrics::LiveRound;
use crate::state::{ApiError, App};
use serde::Serialize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tandem_device::store::{MESSAGE_LIMIT, Message, Preset, Stats, Status, StoreError};
use tandem_device::{Ahead, Begun, Event, Finish, Gamma, Request, generate, new_seed};
use tandem_inference::{ChatMessage, Role};
use tandem_speculation::TokenId;
use tauri::Emitter;
use tauri::ipc::Channel;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How long a lost edge is waited for before the drafter goes on alone.
const PATIENCE: Duration = Duration::from_secs(8);

/// Event `answer-ended`, for whoever does not watch this answer.
#[derive(Clone, Serialize)]
struct Ended {
    /// Since it was asked for.
    ms: u64,
    failed: bool,
}

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
    /// The window's newest channel. After a lost message a channel gives nothing more, so the
    /// window takes another.
    watcher: Channel<ChatEvent>,
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
            What::Stats { stats, .. } => inner.message.stats = Some(stats.clone()),
            What::Done { message } => inner.message = message.clone(),
            What::Notice { .. } => {}
        }
        let event = ChatEvent { seq: inner.seq, what };
        // A window that is gone asks again when it is back.
        let _ = inner.watcher.send(event);
    }

    /// Another channel in place of the last one: the answer so far and the number of the last
    /// event in it.
    pub(crate) fn attach(&self, watcher: Channel<ChatEvent>) -> Attached {
        let mut inner = self.inner();
        inner.watcher = watcher;
        Attached { answer_message: inner.message.clone(), seq: inner.seq }
    }
}

/// How an answer ended.
#[derive(Clone)]
pub(crate) struct Ending {
    conversation: i64,
    status: Status,
    finish: Option<Finish>,
    problem: Option<String>,
}

impl Ending {
    async fn store(&self, app: &App, message: i64) -> Result<Message, StoreError> {
        let problem = self.problem.as_deref();
        app.store.finish(message, self.status, self.finish, "", problem).await
    }
}

/// Writes the endings of a conversation's answers that could not be written in time: the disk was full
/// perhaps, and has room again. What fails once more stays for the next time.
pub(crate) async fn end_late(app: &App, conversation: i64) {
    let late: Vec<_> = {
        let now = app.changing();
        let of = |(_, e): &(&i64, &Ending)| e.conversation == conversation;
        now.unended.iter().filter(of).map(|(id, e)| (*id, e.clone())).collect()
    };
    for (message, ending) in late {
        // Taken first, so that of two callers one adds the held back text.
        if app.changing().unended.remove(&message).is_none() {
            continue;
        }
        match ending.store(app, message).await {
            Ok(_) | Err(StoreError::Missing(_)) => {}
            Err(_) => {
                app.changing().unended.insert(message, ending);
            }
        }
    }
}

/// What to answer.
pub(crate) enum Wanted {
    /// A new question at the end of the active branch.
    Question(String),
    /// Another question in the place of this one.
    Edit(i64, String),
    /// One more answer to the same question.
    Again(i64),
    /// The rest of an answer that ended early.
    Rest(i64),
}

/// The right to write in a conversation, taken before anything is waited for: of two that want to write
/// in one conversation, or of an answer and a benchmark, one is told that the other does.
struct Place {
    app: Arc<App>,
    conversation: i64,
    filled: bool,
}

impl Place {
    fn take(app: &Arc<App>, conversation: i64) -> Result<Self, ApiError> {
        app.changing().enter(conversation)?;
        Ok(Self { app: Arc::clone(app), conversation, filled: false })
    }

    /// An answer is being written from now on, which leaves the place itself.
    fn fill(mut self, running: &Arc<Running>) {
        self.app.changing().running.insert(self.conversation, Arc::clone(running));
        self.filled = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.filled {
            self.app.changing().leave(self.conversation);
        }
    }
}

/// Room that an answer must have at least, in tokens.
const ROOM: usize = 64;

/// Checks that there is something to answer and room for it, stores it, and starts the answer.
pub(crate) async fn start(
    app: Arc<App>,
    conversation: i64,
    wanted: Wanted,
    watcher: Channel<ChatEvent>,
) -> Result<Sent, ApiError> {
    if let Wanted::Question(text) | Wanted::Edit(_, text) = &wanted {
        if text.trim().is_empty() {
            return Err(ApiError::new("empty", "there is nothing to send"));
        }
        if text.len() > MESSAGE_LIMIT {
            return Err(ApiError::new("long", "this message is longer than a model can read"));
        }
    }
    let place = Place::take(&app, conversation)?;
    // Behind it: while a place is taken nobody changes the models.
    let Some(drafter) = app.changing().drafter.clone() else {
        return Err(ApiError::new("drafter", "the model on this device is not ready yet"));
    };
    end_late(&app, conversation).await;
    let settings = app.settings();
    let row = app.store.conversation(conversation).await?;
    let path = path(&app, conversation, &wanted).await?;
    let (parent, base) = match &wanted {
        Wanted::Question(_) | Wanted::Edit(..) => (path.last().map(|m| m.id), None),
        Wanted::Again(_) | Wanted::Rest(_) => (None, path.last().cloned()),
    };
    let rest = matches!(wanted, Wanted::Rest(_));
    let mut messages = chat_messages(row.system_prompt.as_deref(), &settings, &path);
    if base.is_some() {
        messages.pop();
    }
    if let Wanted::Question(text) | Wanted::Edit(_, text) = &wanted {
        messages.push(ChatMessage { role: Role::User, content: text.clone() });
    }
    let mut prompt = encode(&drafter, messages).await?;
    let begun = match base.as_ref().filter(|_| rest) {
        Some(answer) => {
            let kept = app.store.answer_ids(answer.id).await?;
            let tokenizer = drafter.tokenizer();
            let begun = Begun::of(tokenizer, kept, &answer.content);
            begun.map_err(|e| ApiError::new("tokenizer", e))?
        }
        None => Begun::default(),
    };
    prompt.extend(&begun.ids);
    let needed = prompt.len() + ROOM;
    if needed > drafter.context() {
        return Err(too_long(needed, drafter.context(), path.is_empty()));
    }
    let session = app.store.session(conversation).await?;
    let (user_message, answer_message) = match wanted {
        Wanted::Question(text) | Wanted::Edit(_, text) => {
            let (q, a) = app.store.ask_after(conversation, parent, &text).await?;
            (Some(q), a)
        }
        Wanted::Again(answer) => (None, app.store.answer_again(answer).await?),
        Wanted::Rest(answer) => (None, app.store.resume(answer, &begun.text).await?),
    };
    let before = answer_message.stats.clone().filter(|_| rest);
    let running = Arc::new(Running {
        cancel: CancellationToken::new(),
        over: CancellationToken::new(),
        inner: Mutex::new(Inner { seq: 0, message: answer_message.clone(), watcher }),
    });
    place.fill(&running);
    app.answers.send_modify(|n| *n += 1);
    let sent = Sent { user_message, answer_message: answer_message.clone() };
    let asked = Instant::now();
    tauri::async_runtime::spawn(async move {
        let request = Request {
            session,
            prompt,
            begun: begun.ids.len(),
            sampling: row.sampling.map_or_else(|| settings.sampling(), Preset::sampling),
            seed: new_seed(),
            mode: settings.mode,
            gamma: settings.gamma.map_or(Gamma::Auto, Gamma::Fixed),
            ahead: Ahead::No,
            max_tokens: settings.max_tokens,
            when_edge_lost: settings.when_edge_lost,
            patience: PATIENCE,
        };
        let done = write(&app, &running, &drafter, request, answer_message.id, before).await;
        let (status, finish, problem) = match done {
            Ok(Finish::Cancelled) => (Status::Stopped, Some(Finish::Cancelled), None),
            Ok(finish) => (Status::Done, Some(finish), None),
            Err(problem) => (Status::Failed, None, Some(problem)),
        };
        let ending = Ending { conversation, status, finish, problem };
        // A row that cannot be written now still ends for whoever watches.
        let message = ending.store(&app, answer_message.id).await.unwrap_or_else(|e| {
            let mut message = running.inner().message.clone();
            message.status = Status::Failed;
            message.error = Some(e.to_string());
            app.changing().unended.insert(message.id, ending);
            message
        });
        app.changing().leave(conversation);
        app.answers.send_modify(|n| *n -= 1);
        if message.status != Status::Stopped {
            let failed = message.status == Status::Failed;
            let ended = Ended { ms: asked.elapsed().as_millis() as u64, failed };
            let _ = app.handle.emit("answer-ended", ended);
        }
        running.emit(What::Done { message });
        running.over.cancel();
    });
    Ok(sent)
}

/// The branch that ends where the wanted thing goes, or with the answer that is wanted again.
async fn path(app: &App, conversation: i64, wanted: &Wanted) -> Result<Vec<Message>, ApiError> {
    let path = match wanted {
        Wanted::Question(_) => app.store.messages(conversation).await?,
        Wanted::Edit(id, _) | Wanted::Again(id) | Wanted::Rest(id) => {
            let mut path = app.store.path_to(*id).await?;
            let role = if matches!(wanted, Wanted::Edit(..)) { "user" } else { "assistant" };
            let fits = |m: &Message| m.conversation_id == conversation && m.role == role;
            if !path.last().is_some_and(fits) {
                return Err(ApiError::new("missing", "this message does not exist any more"));
            }
            if role == "user" {
                path.pop();
            }
            path
        }
    };
    Ok(path)
}

/// What the models read: the conversation's system prompt, or the settings', and a branch.
pub(crate) fn chat_messages(
    system_prompt: Option<&str>,
    settings: &Settings,
    path: &[Message],
) -> Vec<ChatMessage> {
    let system = system_prompt.unwrap_or(&settings.system_prompt);
    let system = (!system.trim().is_empty())
        .then(|| ChatMessage { role: Role::System, content: system.to_owned() });
    let said = path.iter().map(|m| {
        let role = if m.role == "user" { Role::User } else { Role::Assistant };
        ChatMessage { role, content: m.content.clone() }
    });
    system.into_iter().chain(said).collect()
}

/// What is said of a prompt without room: in a new conversation another one is no remedy.
fn too_long(needed: usize, context: usize, first: bool) -> ApiError {
    let text = format!("this needs {needed} tokens and the models read {context}; ");
    if first {
        return ApiError::new("context_message", text + "shorten the message");
    }
    ApiError::new("context", text + "go on in a new conversation, or shorten the message")
}

/// The ids of a conversation, on a thread for work.
pub(crate) async fn encode(
    drafter: &tandem_device::Drafter,
    messages: Vec<ChatMessage>,
) -> Result<Vec<TokenId>, ApiError> {
    let tokenizer = Arc::clone(drafter.tokenizer());
    let work = tauri::async_runtime::spawn_blocking(move || tokenizer.encode_chat(&messages));
    let ids = work.await.map_err(|e| ApiError::new("tokenizer", e))?;
    ids.map_err(|e| ApiError::new("tokenizer", e))
}

/// Stores and shows each round; returns how it ended.
async fn write(
    app: &App,
    running: &Running,
    drafter: &tandem_device::Drafter,
    request: Request,
    message: i64,
    before: Option<Stats>,
) -> Result<Finish, String> {
    // The bundled edge lives as long as an answer comes from it, also when another box is chosen.
    let (link, _bundled) = {
        let now = app.changing();
        (now.link.clone(), now.bundled.clone())
    };
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
            Event::Round { mut record, text, mut totals, .. } if failed.is_none() => {
                if let Some(before) = &before {
                    record.round += before.rounds as u32;
                    totals.go_on_from(before);
                }
                if let Err(e) = app.store.add_round(message, &record, &text, &totals).await {
                    failed = Some(e.to_string());
                    running.cancel.cancel();
                    continue;
                }
                if !text.is_empty() {
                    running.emit(What::Text { text });
                }
                if let Some(stats) = Stats::of(&totals, None) {
                    let round = LiveRound::of(&record);
                    running.emit(What::Stats { stats, round });
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
        None => Ok(answer.finish),
    }
}
