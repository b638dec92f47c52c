//! What the app holds: the store, the drafter, the link, running answers and downloads.

use crate::api::{DrafterStatus, EdgeStatus, Settings, Status};
use crate::boxes::Active;
use crate::edge::{Bundled, Restarts};
use crate::metrics::Measuring;
use crate::models::Choice;
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tandem_device::store::{Store, StoreError};
use tandem_device::{Boxes, Drafter, EdgeAddress, Link, LinkState, Refusal};
use tandem_inference::store::Store as ModelStore;
use tauri::{AppHandle, Emitter, Manager};
use tauri_plugin_tandem_mobile::Notice;
use tokio::sync::watch;

/// Tokens of a conversation at most.
pub(crate) const CONTEXT: usize = 8192;

/// What a command rejects with.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ApiError {
    pub code: &'static str,
    /// What happened and what to do next, for people.
    pub message: String,
    /// What a library or the system said, for experts. The window folds it in.
    pub detail: Option<String>,
}

impl ApiError {
    /// The first line is for people. What follows, such as a backtrace, is not.
    pub(crate) fn new(code: &'static str, message: impl ToString) -> Self {
        let text = message.to_string();
        let (message, more) = text.trim().split_once('\n').unwrap_or((text.trim(), ""));
        let detail = Some(more.trim_end().to_owned()).filter(|d| !d.trim().is_empty());
        Self { code, message: message.trim_end().to_owned(), detail }
    }

    /// A sentence of ours about an error whose own words are not for people.
    pub(crate) fn because(
        code: &'static str,
        message: impl ToString,
        cause: impl ToString,
    ) -> Self {
        Self { detail: Some(cause.to_string()), ..Self::new(code, message) }
    }
}

impl From<StoreError> for ApiError {
    fn from(e: StoreError) -> Self {
        let code = match e {
            StoreError::Full => "disk_full",
            StoreError::ReadOnly => "read_only",
            _ => "store",
        };
        Self::new(code, e)
    }
}

/// Things that change while the app runs.
#[derive(Default)]
pub(crate) struct Changing {
    pub drafter: Option<Drafter>,
    /// Bytes that its weights take.
    pub drafter_memory: u64,
    pub drafter_problem: Option<String>,
    pub loading: bool,
    /// Whether models have been looked for: before, nothing is missing.
    pub awake: bool,
    /// The models that this device uses.
    pub choice: Choice,
    /// The box in use, and the link to it.
    pub active: Active,
    pub link: Option<Link>,
    /// Runs while it is in use, or an answer still comes from it.
    pub bundled: Option<Arc<Bundled>>,
    pub edge_starting: bool,
    /// It ended, and is started again in a moment.
    pub edge_waiting: bool,
    pub edge_restarts: Restarts,
    /// The port of one that ended.
    pub edge_port: Option<u16>,
    pub edge_problem: Option<String>,
    pub running: HashMap<i64, Arc<crate::chat::Running>>,
    /// Conversations in which an answer is being prepared or written.
    entered: HashSet<i64>,
    pub downloads: HashMap<String, Arc<AtomicBool>>,
    /// Answers whose end is not in the store yet, by their message.
    pub unended: HashMap<i64, crate::chat::Ending>,
    /// The benchmark that runs, and what was wrong with the last one.
    pub benchmark: Option<Measuring>,
    pub benchmark_problem: Option<ApiError>,
}

impl Changing {
    /// Takes a conversation for one answer; see [`crate::chat`].
    ///
    /// # Errors
    /// If somebody else writes there, or measures.
    pub(crate) fn enter(&mut self, conversation: i64) -> Result<(), ApiError> {
        if self.benchmark.is_some() {
            return Err(crate::metrics::running());
        }
        if !self.entered.insert(conversation) {
            return Err(ApiError::new("busy", "an answer is still being written; stop it first"));
        }
        Ok(())
    }

    /// The answer ended, or did not begin.
    pub(crate) fn leave(&mut self, conversation: i64) {
        self.running.remove(&conversation);
        self.entered.remove(&conversation);
    }

    /// Whether an answer or a benchmark needs the models as they are.
    ///
    /// # Errors
    /// If one does.
    pub(crate) fn idle(&self) -> Result<(), ApiError> {
        if self.benchmark.is_some() {
            return Err(crate::metrics::running());
        }
        if !self.entered.is_empty() {
            let text = "an answer is still being written; stop it or wait for its end";
            return Err(ApiError::new("busy", text));
        }
        Ok(())
    }
}

pub(crate) struct App {
    pub handle: AppHandle,
    pub store: Store,
    /// The store's file.
    pub database: PathBuf,
    pub boxes: Boxes,
    pub models: ModelStore,
    pub settings: Mutex<Settings>,
    /// How many answers are being written.
    pub answers: watch::Sender<usize>,
    /// Of work in the background.
    pub notice: Mutex<Notice>,
    changing: Mutex<Changing>,
}

impl App {
    pub(crate) fn new(
        handle: AppHandle,
        (store, database): (Store, PathBuf),
        models: ModelStore,
        settings: Settings,
        active: Active,
        choice: Choice,
    ) -> Self {
        let boxes = Boxes::new(store.clone(), &database);
        // Until the window has said it in the person's language.
        let notice =
            Notice { channel: "Answers".into(), title: "An answer is being written".into() };
        Self {
            handle,
            store,
            database,
            boxes,
            models,
            settings: Mutex::new(settings),
            answers: watch::Sender::default(),
            notice: Mutex::new(notice),
            changing: Mutex::new(Changing { active, choice, ..Changing::default() }),
        }
    }

    /// The models that this device uses.
    pub(crate) fn choice(&self) -> Choice {
        self.changing().choice.clone()
    }

    /// Uses other models from now on, at once. Fails while an answer is being written.
    pub(crate) async fn choose(&self, choice: Choice) -> Result<(), ApiError> {
        {
            let mut now = self.changing();
            now.idle()?;
            if now.choice.drafter != choice.drafter {
                (now.drafter, now.drafter_problem) = (None, None);
            }
            // The link introduces the drafter to the edge, so it ends with either.
            (now.link, now.bundled, now.edge_problem) = (None, None, None);
            now.choice = choice;
        }
        self.tell_status();
        self.wake().await;
        Ok(())
    }

    pub(crate) fn changing(&self) -> MutexGuard<'_, Changing> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn settings(&self) -> Settings {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn status(&self) -> Status {
        let now = self.changing();
        let (mut model, mut detail, mut url) = (None, now.edge_problem.clone(), None);
        let (mut problem_kind, mut approximate) = (None, false);
        let starting = now.active.bundled && (now.edge_starting || now.edge_waiting || !now.awake);
        let connected =
            |link: &Link| matches!(&*link.state().borrow(), LinkState::Connected { .. });
        let state = match &now.link {
            // Also while the link still looks for the one before.
            None if starting => "starting",
            Some(link) if starting && !connected(link) => "starting",
            None => {
                let ended = now.active.bundled && !cfg!(mobile) && now.edge_problem.is_some();
                problem_kind = ended.then_some("ended");
                "off"
            }
            Some(link) => {
                url = Some(link.address().to_string());
                match &*link.state().borrow() {
                    LinkState::Connected { welcome, .. } => {
                        model = Some(welcome.model.clone());
                        approximate = !welcome.batch_invariant;
                        "connected"
                    }
                    LinkState::Connecting { problem: None } => "connecting",
                    LinkState::Connecting { problem } => {
                        detail.clone_from(problem);
                        "offline"
                    }
                    LinkState::Refused { problem, why } => {
                        detail = Some(problem.clone());
                        problem_kind = match why {
                            Refusal::Certificate => Some("certificate"),
                            Refusal::Access => Some("access"),
                            Refusal::Other => None,
                        };
                        "offline"
                    }
                }
            }
        };
        let (of, bundled) = (now.active.clone(), now.active.bundled);
        let problem = problem_kind;
        let edge = EdgeStatus { of, state, url, bundled, model, approximate, detail, problem };
        let drafter = match &now.drafter {
            Some(d) => DrafterStatus {
                state: "ready",
                model: Some(d.info().name.clone()),
                detail: crate::system::remark(d).or_else(|| now.drafter_problem.clone()),
            },
            None => DrafterStatus {
                state: if now.loading || !now.awake {
                    "loading"
                } else if now.drafter_problem.is_some() {
                    "failed"
                } else {
                    "missing"
                },
                model: Some(now.choice.drafter.clone()),
                detail: now.drafter_problem.clone(),
            },
        };
        let mode = self.settings().mode;
        let scanner = crate::system::SCANNER;
        Status { edge, drafter, mode, version: env!("CARGO_PKG_VERSION"), scanner }
    }

    pub(crate) fn tell_status(&self) {
        let _ = self.handle.emit("status", self.status());
    }

    /// Loads and starts whatever is ready and not running yet. Called at the start and after each
    /// download.
    pub(crate) async fn wake(&self) {
        self.changing().awake = true;
        loop {
            let choice = self.choice();
            // Beside each other: neither waits for the other's file.
            tokio::join!(self.wake_drafter(), self.wake_bundled());
            self.wake_link().await;
            if self.choice() == choice {
                return;
            }
        }
    }

    async fn wake_drafter(&self) {
        let name = self.choice().drafter;
        let Some(path) = crate::models::ready(&self.models, &name) else { return };
        {
            let mut now = self.changing();
            if now.loading || now.drafter.is_some() {
                return;
            }
            now.loading = true;
        }
        self.tell_status();
        crate::phases::reached("drafter begun");
        let loaded = crate::system::load_drafter(self, &name, path).await;
        {
            let mut now = self.changing();
            now.loading = false;
            match loaded {
                // Another was chosen meanwhile.
                _ if now.choice.drafter != name => {}
                Ok(loaded) => {
                    crate::phases::reached("drafter loaded");
                    now.drafter = Some(loaded.drafter);
                    (now.drafter_memory, now.drafter_problem) = (loaded.memory, loaded.remark);
                }
                Err(e) => now.drafter_problem = Some(e.to_string()),
            }
        }
        self.tell_status();
    }

    /// Starts the edge of this device, where it is the one in use.
    async fn wake_bundled(&self) {
        if !self.changing().active.bundled {
            return;
        }
        if cfg!(mobile) {
            let text = "a phone has no edge of its own: pair it with a box under Boxes";
            self.changing().edge_problem = Some(text.into());
            return self.tell_status();
        }
        let choice = self.choice();
        let Some(path) = crate::models::ready(&self.models, &choice.verifier) else { return };
        let port = {
            let mut now = self.changing();
            if now.edge_starting || now.bundled.is_some() {
                return;
            }
            now.edge_starting = true;
            now.edge_waiting = false;
            now.edge_port.take()
        };
        self.tell_status();
        crate::phases::reached("edge begun");
        let started = crate::edge::start(&path.to_string_lossy(), port).await;
        let wanted = {
            let mut now = self.changing();
            now.edge_starting = false;
            // Another box or other models may have been chosen meanwhile.
            now.active.bundled && now.choice == choice
        };
        match started {
            _ if !wanted => {}
            Ok(edge) => self.edge_ready(edge),
            // Another program may have taken the port.
            Err(e) if e.killed || port.is_some() => self.start_edge_later(Duration::ZERO, &e.why),
            Err(e) => {
                tracing::error!("{}", e.why);
                self.changing().edge_problem = Some(e.why);
            }
        }
        self.tell_status();
    }

    /// Takes an edge that has started, and follows it to its end.
    fn edge_ready(&self, edge: Arc<Bundled>) {
        crate::phases::reached("edge ready");
        {
            let mut now = self.changing();
            now.bundled = Some(Arc::clone(&edge));
            now.edge_problem = None;
            let address = edge.address();
            now.link = now.link.take().filter(|link| address.as_ref() == Ok(link.address()));
            if let Some(link) = &now.link {
                // Answers that were being written go on with it.
                link.reconnect();
            }
        }
        let (handle, end) = (self.handle.clone(), edge.end());
        let edge = Arc::downgrade(&edge);
        tauri::async_runtime::spawn(async move {
            let Some(why) = end.await else { return };
            let app = handle.state::<Arc<Self>>();
            let ran = {
                let mut now = app.changing();
                let current = now.bundled.as_ref().filter(|b| edge.as_ptr() == Arc::as_ptr(b));
                // Another one has its place.
                let Some(ended) = current.cloned() else { return };
                now.bundled = None;
                now.edge_port = ended.port();
                ended.age()
            };
            app.start_edge_later(ran, &why);
        });
    }

    /// Starts the app's own edge again in a while, or says that it keeps ending.
    fn start_edge_later(&self, ran: Duration, why: &str) {
        let wait = {
            let mut now = self.changing();
            let wait = now.edge_restarts.next(ran);
            now.edge_waiting = wait.is_some();
            now.edge_problem = Some(match wait {
                Some(_) => format!("the edge of this device ended ({why}) and is started again"),
                None => format!("the edge of this device keeps ending: {why}"),
            });
            if wait.is_none() {
                now.link = None;
            }
            wait
        };
        self.tell_status();
        let Some(wait) = wait else {
            tracing::error!(
                "the edge of this device keeps ending, and is not started again: {why}"
            );
            return;
        };
        tracing::warn!("the edge of this device is started again in {wait:?}");
        let handle = self.handle.clone();
        tauri::async_runtime::spawn(async move {
            tokio::time::sleep(wait).await;
            // Whether it is still to be started is looked at there.
            handle.state::<Arc<Self>>().wake().await;
        });
    }

    /// Links to the box in use, as soon as there is a drafter to introduce.
    async fn wake_link(&self) {
        let (drafter, active, bundled) = {
            let now = self.changing();
            let Some(drafter) = now.drafter.clone() else { return };
            if now.link.is_some() {
                return;
            }
            (drafter, now.active.clone(), now.bundled.clone())
        };
        let address = if active.bundled {
            let Some(edge) = bundled else { return };
            edge.address()
        } else {
            match self.store.one_box(active.id).await {
                Ok(row) => self.boxes.address(&row).await.map_err(|e| e.to_string()),
                Err(e) => Err(e.to_string()),
            }
        };
        self.connect(&active, address, &drafter);
        self.tell_status();
    }

    /// Links to a box, if it is still the one in use, and follows the link's state.
    fn connect(&self, active: &Active, address: Result<EdgeAddress, String>, drafter: &Drafter) {
        let mut now = self.changing();
        if now.active.id != active.id || now.link.is_some() {
            return;
        }
        let address = match address {
            Ok(address) => address,
            Err(problem) => {
                now.edge_problem = Some(problem);
                return;
            }
        };
        // The link's task belongs to the runtime, whoever calls this.
        let _runtime = tauri::async_runtime::handle().inner().enter();
        let link = Link::start(address, drafter.hello());
        let mut state = link.state();
        now.link = Some(link);
        drop(now);
        let (handle, id) = (self.handle.clone(), active.id);
        tauri::async_runtime::spawn(async move {
            while state.changed().await.is_ok() {
                let app = handle.state::<Arc<Self>>();
                app.tell_status();
                let seen = match &*state.borrow() {
                    LinkState::Connected { welcome, .. } => Some(welcome.model.clone()),
                    _ => None,
                };
                if seen.is_some() {
                    crate::phases::reached("connected");
                }
                if let Some(model) = seen
                    && let Err(e) = app.store.box_used(id, Some(&model)).await
                {
                    tracing::warn!("cannot note the use of a box: {e}");
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_that_want_to_write_in_one_conversation_one_is_told() {
        let mut now = Changing::default();
        now.enter(7).unwrap();
        // Nothing is running yet: it is being prepared.
        assert_eq!(now.enter(7).unwrap_err().code, "busy");
        now.enter(8).unwrap();
        assert_eq!(now.idle().unwrap_err().code, "busy");
        now.leave(7);
        now.leave(8);
        now.idle().unwrap();
        now.enter(7).unwrap();
        now.leave(7);
        let cancel = tokio_util::sync::CancellationToken::new();
        now.benchmark = Some(Measuring { cancel, progress: None });
        assert_eq!(now.enter(7).unwrap_err().code, "benchmark_running");
        assert_eq!(now.idle().unwrap_err().code, "benchmark_running");
    }
}
