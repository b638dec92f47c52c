//! What the app holds: the store, the drafter, the link, running answers and downloads.

use crate::api::{DrafterStatus, EdgeStatus, Settings, Status};
use crate::edge::Bundled;
use crate::models::Choice;
use serde::Serialize;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tandem_device::store::Store;
use tandem_device::{Drafter, Link, LinkState};
use tandem_inference::LoadOptions;
use tandem_inference::store::Store as ModelStore;
use tandem_protocol::{Hello, PROTOCOL_VERSION};
use tauri::{AppHandle, Emitter, Manager};

/// Tokens of a conversation at most.
pub(crate) const CONTEXT: usize = 8192;

/// What a command rejects with.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ApiError {
    pub code: &'static str,
    pub message: String,
}

impl ApiError {
    pub(crate) fn new(code: &'static str, message: impl ToString) -> Self {
        Self { code, message: message.to_string() }
    }
}

impl From<tandem_device::store::StoreError> for ApiError {
    fn from(e: tandem_device::store::StoreError) -> Self {
        Self::new("store", e)
    }
}

/// Things that change while the app runs.
#[derive(Default)]
pub(crate) struct Changing {
    pub drafter: Option<Drafter>,
    pub drafter_problem: Option<String>,
    pub loading: bool,
    pub link: Option<Link>,
    pub bundled: Option<Bundled>,
    pub edge_starting: bool,
    pub edge_problem: Option<String>,
    pub running: HashMap<i64, Arc<crate::chat::Running>>,
    pub downloads: HashMap<String, Arc<AtomicBool>>,
}

pub(crate) struct App {
    pub handle: AppHandle,
    pub store: Store,
    pub models: ModelStore,
    pub settings: Mutex<Settings>,
    choice: Mutex<Choice>,
    changing: Mutex<Changing>,
}

impl App {
    pub(crate) fn new(
        handle: AppHandle,
        store: Store,
        models: ModelStore,
        settings: Settings,
        choice: Choice,
    ) -> Self {
        let (settings, choice) = (Mutex::new(settings), Mutex::new(choice));
        Self { handle, store, models, settings, choice, changing: Mutex::default() }
    }

    /// The models that this device uses.
    pub(crate) fn choice(&self) -> Choice {
        self.choice.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Uses other models from now on, at once. Fails while an answer is being written.
    pub(crate) async fn choose(&self, choice: Choice) -> Result<(), ApiError> {
        {
            let mut now = self.changing();
            if !now.running.is_empty() {
                let text = "an answer is still being written; stop it or wait for its end";
                return Err(ApiError::new("busy", text));
            }
            let mut old = self.choice.lock().unwrap_or_else(PoisonError::into_inner);
            if old.drafter != choice.drafter {
                (now.drafter, now.drafter_problem) = (None, None);
            }
            // The link introduces the drafter to the edge, so it ends with either.
            (now.link, now.bundled, now.edge_problem) = (None, None, None);
            *old = choice;
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
        let state = match &now.link {
            None if now.edge_starting => "starting",
            None => "off",
            Some(link) => {
                url = Some(link.address().to_string());
                match &*link.state().borrow() {
                    LinkState::Connected { welcome, .. } => {
                        model = Some(welcome.model.clone());
                        "connected"
                    }
                    LinkState::Connecting { problem: None } => "connecting",
                    LinkState::Connecting { problem } => {
                        detail.clone_from(problem);
                        "offline"
                    }
                    LinkState::Refused { problem } => {
                        detail = Some(problem.clone());
                        "offline"
                    }
                }
            }
        };
        let edge = EdgeStatus { state, url, bundled: true, model, detail };
        let drafter = match &now.drafter {
            Some(d) => DrafterStatus {
                state: "ready",
                model: Some(d.model().info().name.clone()),
                detail: None,
            },
            None => DrafterStatus {
                state: if now.loading {
                    "loading"
                } else if now.drafter_problem.is_some() {
                    "failed"
                } else {
                    "missing"
                },
                model: Some(self.choice().drafter),
                detail: now.drafter_problem.clone(),
            },
        };
        let mode = self.settings().mode;
        Status { edge, drafter, mode, version: env!("CARGO_PKG_VERSION") }
    }

    pub(crate) fn tell_status(&self) {
        let _ = self.handle.emit("status", self.status());
    }

    /// Loads and starts whatever is ready and not running yet. Called at the start and after each
    /// download.
    pub(crate) async fn wake(&self) {
        loop {
            let choice = self.choice();
            self.wake_drafter().await;
            self.wake_edge().await;
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
        let loaded = Drafter::load(path, LoadOptions::default(), CONTEXT).await;
        {
            let mut now = self.changing();
            now.loading = false;
            match loaded {
                // Another was chosen meanwhile.
                _ if self.choice().drafter != name => {}
                Ok(drafter) => now.drafter = Some(drafter),
                Err(e) => now.drafter_problem = Some(e.to_string()),
            }
        }
        self.tell_status();
    }

    async fn wake_edge(&self) {
        let choice = self.choice();
        let Some(path) = crate::models::ready(&self.models, &choice.verifier) else { return };
        let Some(drafter) = self.changing().drafter.clone() else { return };
        {
            let mut now = self.changing();
            if now.edge_starting || now.bundled.is_some() {
                return;
            }
            now.edge_starting = true;
        }
        self.tell_status();
        let started = crate::edge::start(&path.to_string_lossy()).await;
        let address = started
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|b| b.url.parse().map_err(|e: tandem_device::AddressError| e.to_string()));
        let followed = {
            let mut now = self.changing();
            now.edge_starting = false;
            match address {
                _ if self.choice() != choice => None,
                Ok(address) => {
                    let hello = Hello {
                        protocol: PROTOCOL_VERSION,
                        app_version: env!("CARGO_PKG_VERSION").into(),
                        drafter: drafter.model().info().name.clone(),
                        tokenizer: drafter.model().tokenizer().fingerprint(),
                        model: None,
                    };
                    let link = Link::start(address, hello);
                    let state = link.state();
                    now.link = Some(link);
                    now.bundled = started.ok();
                    Some(state)
                }
                Err(problem) => {
                    now.edge_problem = Some(problem);
                    None
                }
            }
        };
        self.tell_status();
        if let Some(mut state) = followed {
            let handle = self.handle.clone();
            tauri::async_runtime::spawn(async move {
                while state.changed().await.is_ok() {
                    handle.state::<Arc<Self>>().tell_status();
                }
            });
        }
    }
}
