//! Who may use the edge: the static token, and the paired devices as their file is now.

use crate::devices::{Device, Devices, token_hash};
use crate::share::Owner;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tandem_protocol::same;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// How often the file is looked at; a revoked device is gone after this.
const LOOK: Duration = Duration::from_millis(250);
/// Connections of one paired device at once: the app, a terminal, and those that were lost and are not
/// known to be.
const CONNECTIONS: usize = 8;

/// Lets devices in and throws them out.
pub(crate) struct Access {
    /// Hash of the static token.
    token: Option<String>,
    /// `None` on an edge without TLS, which has no paired devices.
    devices: Option<Devices>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    stamp: Option<(SystemTime, u64)>,
    devices: HashMap<String, Entry>,
}

/// A device, with what ends its connections and the places for them.
struct Entry {
    device: Device,
    revoked: CancellationToken,
    places: Arc<Semaphore>,
}

impl Entry {
    fn new(device: Device) -> Self {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        Self { device, revoked: CancellationToken::new(), places }
    }
}

/// One connection's right to be here.
#[derive(Clone)]
pub(crate) struct Pass {
    /// The paired device; `None` for the static token or an open edge.
    pub device: Option<Device>,
    /// Cancelled when the right is taken away.
    pub revoked: CancellationToken,
    /// Places for the device's connections.
    pub places: Arc<Semaphore>,
}

impl Pass {
    /// Of the static token, or of an edge that is open to its machine: nothing tells its holders apart.
    fn free() -> Self {
        let places = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        Self { device: None, revoked: CancellationToken::new(), places }
    }

    /// Whose it is, for what is shared among one owner's sessions only.
    pub(crate) fn owner(&self) -> Owner {
        self.device.as_ref().map(|device| device.id.as_str().into())
    }
}

/// A browser sends an origin; a web page has no business with an edge in the local network, even where
/// there is no token to guess.
pub(crate) fn from_a_page(headers: &HeaderMap) -> Result<(), Box<Response>> {
    if !headers.contains_key(header::ORIGIN) {
        return Ok(());
    }
    let text = "web pages may not use this edge\n";
    Err(Box::new((StatusCode::FORBIDDEN, text).into_response()))
}

impl Access {
    pub(crate) fn new(token: Option<&str>, devices: Option<Devices>) -> Arc<Self> {
        let token = token.filter(|t| !t.is_empty()).map(token_hash);
        let access = Arc::new(Self { token, devices, table: Mutex::default() });
        access.refresh();
        access
    }

    /// Follows the file until the edge ends.
    pub(crate) async fn watch(self: Arc<Self>, over: CancellationToken) {
        if self.devices.is_none() {
            return;
        }
        let mut clock = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = over.cancelled() => break,
                _ = clock.tick() => self.refresh(),
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn devices(&self) -> Option<&Devices> {
        self.devices.as_ref()
    }

    /// Takes over what the file says now.
    pub(crate) fn refresh(&self) {
        let Some(devices) = &self.devices else { return };
        let mut table = self.table();
        let stamp = devices.stamp();
        if stamp == table.stamp {
            return;
        }
        // A list that cannot be read lets nobody in.
        let list = devices.list().unwrap_or_else(|e| {
            tracing::error!("{e}");
            Vec::new()
        });
        table.stamp = stamp;
        let mut old = std::mem::take(&mut table.devices);
        for device in list {
            // Another token under the same id is another right.
            let kept = old.remove(&device.id);
            let kept = kept.filter(|e| e.device.token_sha256 == device.token_sha256);
            let id = device.id.clone();
            let entry = match kept {
                Some(entry) => Entry { device, ..entry },
                None => Entry::new(device),
            };
            table.devices.insert(id, entry);
        }
        for entry in old.into_values() {
            tracing::info!("{} may not use this edge any more", entry.device.name);
            entry.revoked.cancel();
        }
    }

    /// Whether this request may pass.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> Result<Pass, Box<Response>> {
        from_a_page(headers)?;
        if self.token.is_none() && self.devices.is_none() {
            return Ok(Pass::free());
        }
        let shown = headers
            .get(header::AUTHORIZATION)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.strip_prefix("Bearer "))
            .filter(|v| !v.is_empty());
        if let Some(shown) = shown {
            let hash = token_hash(shown);
            if self.token.as_ref().is_some_and(|own| same(own.as_bytes(), hash.as_bytes())) {
                return Ok(Pass::free());
            }
            self.refresh();
            let table = self.table();
            let known = table.devices.values();
            // Hashes are compared, so the time tells nothing about a token.
            let hash = hash.as_bytes();
            let mut known = known.filter(|e| same(e.device.token_sha256.as_bytes(), hash));
            if let Some(Entry { device, revoked, places }) = known.next() {
                return Ok(Pass {
                    device: Some(device.clone()),
                    revoked: revoked.clone(),
                    places: Arc::clone(places),
                });
            }
        }
        let text = if self.devices.is_some() {
            "this edge does not know this device, or its access was revoked; pair it again: run \
             `tandem-edge pair` on the box\n"
        } else {
            "this edge wants a token, and the one shown is missing or wrong; \
             use the token that the edge was started with\n"
        };
        Err(Box::new((StatusCode::UNAUTHORIZED, text).into_response()))
    }

    /// Notes that a device is here, without making it wait.
    pub(crate) fn seen(&self, pass: &Pass) {
        if let (Some(devices), Some(device)) = (self.devices.clone(), pass.device.clone()) {
            tokio::task::spawn_blocking(move || devices.seen(&device));
        }
    }
}
