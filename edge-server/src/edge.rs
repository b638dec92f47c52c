//! The edge's life: from an address that is ours to the last round.

use crate::access::Access;
use crate::announce::Announcement;
use crate::control::Control;
use crate::devices::Devices;
use crate::metrics::Metrics;
use crate::openai::Door;
use crate::pairing::Pairing;
use crate::scheduler::{Limits, Scheduler, Work};
use crate::socket::Shared;
use crate::state::{Serving, StateError, StateFolder};
use crate::tls::Identity;
use crate::{http, listen};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use tandem_inference::Model;
use tandem_protocol::{EdgeInfo, MAX_DRAFT, Welcome, clean_name};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// How an edge listens.
#[derive(Clone)]
pub struct Config {
    /// Address; port 0 picks one.
    pub listen: SocketAddr,
    /// Serves with TLS, and pairs with devices, with the identity and the list in this folder.
    /// Needed beyond loopback.
    pub state: Option<StateFolder>,
    /// What a device that is not paired may show instead.
    pub token: Option<String>,
    /// Name for people.
    pub name: String,
    /// Say in the local network that the edge is here.
    pub announce: bool,
    /// Limits of the sessions.
    pub limits: Limits,
    /// Connections at most.
    pub connections: usize,
    /// Addresses of balancers, which say with the PROXY protocol, version 2, whose a connection is. Nothing
    /// else is taken from them.
    pub balancers: Vec<IpAddr>,
    /// Other names by which clients of the OpenAI-compatible API may ask for the model.
    pub aliases: Vec<String>,
    /// A small model with the same tokenizer, for speculation on the box itself.
    pub drafter: Option<Arc<Model>>,
}

impl Config {
    /// An edge for this machine alone, on any free port, that keeps nothing and wants no token.
    #[must_use]
    pub fn local(name: &str, limits: Limits) -> Self {
        Self {
            listen: ([127, 0, 0, 1], 0).into(),
            state: None,
            token: None,
            name: name.into(),
            announce: false,
            limits,
            connections: 16,
            balancers: Vec::new(),
            aliases: Vec::new(),
            drafter: None,
        }
    }
}

/// Why an edge does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Open to the network without TLS.
    #[error("{0} can be reached from other machines, where plain text is not for")]
    NeedsTls(SocketAddr),
    /// The edge's own files.
    #[error(transparent)]
    State(#[from] StateError),
    /// The address cannot be had.
    #[error("cannot listen on {address}: {source}; choose another port with --listen")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Two models that do not fit.
    #[error(
        "{drafter} cannot draft for {verifier}: their tokenizers differ; take two models of one family"
    )]
    Drafter {
        /// The small one.
        drafter: String,
        /// The large one.
        verifier: String,
    },
    /// No thread for the model.
    #[error("cannot start the compute thread: {0}")]
    Thread(std::io::Error),
}

/// An address that is ours, before there is a model: what is wrong with it is known at once.
/// Devices that connect meanwhile wait in the system's queue.
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    config: Config,
    secured: Option<Secured>,
}

/// What an edge with TLS has.
struct Secured {
    folder: StateFolder,
    identity: Identity,
    serving: Serving,
}

/// Says which edge serves from a state folder; for `tandem-edge pair`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServingNote {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its name.
    pub name: String,
    /// Its model.
    pub model: String,
}

const NOTE: &str = "serving.json";

/// An edge without a round for so long has no answer that goes on: a device drafts in less.
const QUIET: Duration = Duration::from_secs(2);

impl ServingNote {
    /// Of the edge that serves from this folder now.
    ///
    /// # Errors
    /// If none does.
    pub fn read(folder: &StateFolder) -> Result<Self, StateError> {
        let none = || StateError::NotServing(folder.path().to_owned());
        if !folder.is_served()? {
            return Err(none());
        }
        folder.read_json(NOTE, "start the edge again")?.ok_or_else(none)
    }
}

/// A running edge.
pub struct Edge {
    address: SocketAddr,
    secure: bool,
    stop: CancellationToken,
    draining: CancellationToken,
    metrics: Arc<Metrics>,
    server: tokio::task::JoinHandle<()>,
}

impl Bound {
    /// Takes the address.
    ///
    /// # Errors
    /// If it is open to the network without TLS, or cannot be had, or if the state cannot be used.
    pub async fn new(config: Config) -> Result<Self, StartError> {
        if !config.listen.ip().is_loopback() && config.state.is_none() {
            return Err(StartError::NeedsTls(config.listen));
        }
        let secured = match config.state.clone() {
            Some(folder) => {
                let serving = folder.serve()?;
                // Of an edge that was killed.
                folder.remove(NOTE)?;
                Some(Secured { identity: Identity::load_or_create(&folder)?, folder, serving })
            }
            None => None,
        };
        let listen = |source| StartError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        Ok(Self { listener, address, config, secured })
    }

    /// With a small model for speculation on the box itself.
    #[must_use]
    pub fn with_drafter(mut self, drafter: Option<Arc<Model>>) -> Self {
        self.config.drafter = drafter;
        self
    }

    /// Serves `model` until [`Edge::stop`].
    ///
    /// # Errors
    /// If there is no thread for the model, or the state cannot be written, or the drafter does not fit.
    pub fn serve(self, model: Arc<Model>) -> Result<Edge, StartError> {
        let Self { listener, address, config, secured } = self;
        if let Some(drafter) = &config.drafter
            && drafter.tokenizer().fingerprint() != model.tokenizer().fingerprint()
        {
            let [drafter, verifier] = [drafter, &model].map(|m| m.info().name.clone());
            return Err(StartError::Drafter { drafter, verifier });
        }
        let metrics = Arc::new(Metrics::new());
        let mut limits = config.limits;
        limits.context = limits.context.clamp(2, model.info().max_context);
        let welcome = Welcome {
            edge_version: env!("CARGO_PKG_VERSION").to_owned(),
            model: model.info().name.clone(),
            vocab: model.info().vocab as u32,
            max_context: limits.context as u32,
            max_draft: MAX_DRAFT as u32,
            tokenizer: model.tokenizer().fingerprint(),
            drafts: config.drafter.is_some(),
            batch_invariant: model.info().batch_invariant,
        };
        let (work, inbox) = mpsc::channel(1024);
        // Who waits for memory is looked at with each.
        let every = (limits.idle / 4).clamp(Duration::from_millis(100), Duration::from_secs(1));
        let tokenizer = Arc::clone(model.tokenizer());
        let scheduler = Scheduler::new(model, config.drafter, limits, Arc::clone(&metrics));
        let compute = std::thread::Builder::new()
            .name("compute".into())
            .spawn(move || scheduler.run(inbox))
            .map_err(StartError::Thread)?;
        // `stop` ends listening and asks compute to finish; `over` ends the connections after that.
        let (stop, over) = (CancellationToken::new(), CancellationToken::new());
        let places = Arc::new(Semaphore::new(config.connections));
        let draining = CancellationToken::new();
        let shared = Arc::new(Shared {
            welcome,
            work,
            metrics: Arc::clone(&metrics),
            stop: over.clone(),
            draining: draining.clone(),
            places,
        });
        let info = EdgeInfo {
            name: clean_name(&config.name),
            model: shared.welcome.model.clone(),
            version: shared.welcome.edge_version.clone(),
        };
        if let Some(secured) = &secured {
            let (name, model) = (info.name.clone(), info.model.clone());
            secured.folder.write_json(NOTE, &ServingNote { address, name, model })?;
        }
        let announcement = secured.as_ref().filter(|_| config.announce).and_then(|secured| {
            let started = Announcement::start(&info, address, &secured.identity.certificate);
            // Pairing by address works without it.
            started.inspect_err(|e| tracing::warn!("cannot announce the edge by mDNS: {e}")).ok()
        });
        let devices = secured.as_ref().map(|s| Devices::new(s.folder.clone()));
        let access = Access::new(config.token.as_deref(), devices);
        let pairing = secured
            .as_ref()
            .map(|s| (Arc::new(Pairing::new(s.folder.clone())), s.identity.certificate));
        let [places, begins] = Control::places();
        let control = Control {
            access: Arc::clone(&access),
            pairing,
            info,
            stop: over.clone(),
            places,
            begins,
        };
        let next = Arc::new(AtomicU64::new(1));
        let aliases = config.aliases.into();
        let shared_too = Arc::clone(&shared);
        let door =
            Door::new(shared_too, Arc::clone(&access), tokenizer, Arc::clone(&next), aliases);
        let app = Arc::new(http::App {
            shared: Arc::clone(&shared),
            access: Arc::clone(&access),
            control,
            next,
        });
        let meant = axum::middleware::from_fn_with_state(Arc::clone(&access), http::meant);
        let router = http::router(app).merge(door.router()).layer(meant);
        let stopped = stop.clone();
        let tls = secured.as_ref().map(|s| Arc::clone(&s.identity.server));
        let secure = tls.is_some();
        tokio::spawn(access.watch(over.clone()));
        let server = tokio::spawn(async move {
            let (devices, balancers) = (config.connections, config.balancers.into());
            let serving = listen::serve(listener, tls, router, devices, balancers, over.clone());
            let serving = tokio::spawn(serving);
            let mut clock = tokio::time::interval(every);
            loop {
                tokio::select! {
                    () = stopped.cancelled() => break,
                    // A full inbox is awake anyway.
                    _ = clock.tick() => { let _ = shared.work.try_send(Work::Tick); }
                }
            }
            let _ = shared.work.send(Work::Stop).await;
            let _ = tokio::task::spawn_blocking(move || compute.join()).await;
            over.cancel();
            drop(announcement);
            let _ = serving.await;
            if let Some(Secured { folder, serving, .. }) = secured {
                let _ = folder.remove(NOTE);
                drop(serving);
            }
        });
        Ok(Edge { address, secure, stop, draining, metrics, server })
    }
}

impl Edge {
    /// Listens and serves `model` until [`Edge::stop`].
    ///
    /// # Errors
    /// As [`Bound::new`] and [`Bound::serve`].
    pub async fn start(model: Arc<Model>, config: Config) -> Result<Self, StartError> {
        Bound::new(config).await?.serve(model)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", if self.secure { "wss" } else { "ws" }, self.address)
    }

    /// Begins nothing new and lets running answers go on, for `most` at most. `/readyz` fails from now on,
    /// so that a balancer sends new work elsewhere; a device that begins an answer is sent away with it.
    pub async fn drain(&self, most: Duration) {
        self.draining.cancel();
        let quiet = async {
            let (mut since, mut rounds) = (Instant::now(), self.metrics.rounds.get());
            while since.elapsed() < QUIET {
                tokio::time::sleep(QUIET / 20).await;
                let now = self.metrics.rounds.get();
                if now != rounds || self.metrics.running.get() > 0 {
                    (since, rounds) = (Instant::now(), now);
                }
            }
        };
        // It may well go on for longer.
        let _ = tokio::time::timeout(most, quiet).await;
    }

    /// Finishes running rounds, tells devices, and ends.
    pub async fn stop(self) {
        self.draining.cancel();
        self.stop.cancel();
        let _ = self.server.await;
    }
}
