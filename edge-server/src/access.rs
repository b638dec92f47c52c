//! Who may use the edge: the static token, and the paired devices as their file is now.

use crate::devices::{Device, Devices, token_hash};
use crate::share::Owner;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tandem_protocol::{clean_name, same};
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

/// The token that a request shows: as a bearer, or as other programs' clients name it.
fn shown(headers: &HeaderMap) -> Option<&str> {
    let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let bearer = text(header::AUTHORIZATION).and_then(|value| {
        let (scheme, token) = value.trim().split_once(char::is_whitespace)?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token)
    });
    let named = || text(HeaderName::from_static("x-api-key"));
    let token = bearer.or_else(named).or_else(|| text(HeaderName::from_static("api-key")));
    token.map(str::trim).filter(|token| !token.is_empty())
}

/// Whether a request shows anything as its right to be here.
pub(crate) fn shows_token(headers: &HeaderMap) -> bool {
    headers.contains_key(header::AUTHORIZATION) || shown(headers).is_some()
}

/// Whether a request was made to this machine by one of its names: a web page whose own name leads here
/// (DNS rebinding) says that name.
fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let authority: Option<Authority> = host.parse().ok();
    let Some(authority) = authority else { return false };
    let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let loopback = bare.parse().is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback());
    loopback || host == "localhost" || host.ends_with(".localhost")
}

impl Access {
    /// Whether anyone on this machine may use the edge, without a token.
    fn is_open(&self) -> bool {
        self.token.is_none() && self.devices.is_none()
    }

    /// Refuses what was not meant for an edge that is open to its machine.
    ///
    /// # Errors
    /// With the refusal, if `Host` is no name of this machine.
    pub(crate) fn meant(&self, headers: &HeaderMap) -> Result<(), Box<Response>> {
        if !self.is_open() || names_this_machine(headers) {
            return Ok(());
        }
        let text = "this edge serves its own machine without a token, so it answers to 127.0.0.1, ::1 and \
                    localhost only; use one of them, or start the edge with --token\n";
        Err(Box::new((StatusCode::MISDIRECTED_REQUEST, text).into_response()))
    }

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
            tracing::info!("{} may not use this edge any more", clean_name(&entry.device.name));
            entry.revoked.cancel();
        }
    }

    /// Whether this request may pass.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> Result<Pass, Box<Response>> {
        from_a_page(headers)?;
        if self.is_open() {
            return Ok(Pass::free());
        }
        if let Some(shown) = shown(headers) {
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
        let scheme = [(header::WWW_AUTHENTICATE, "Bearer")];
        Err(Box::new((StatusCode::UNAUTHORIZED, scheme, text).into_response()))
    }

    /// Notes that a device is here, without making it wait.
    pub(crate) fn seen(&self, pass: &Pass) {
        if let (Some(devices), Some(device)) = (self.devices.clone(), pass.device.clone()) {
            tokio::task::spawn_blocking(move || devices.seen(&device));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).expect("a value"));
        headers
    }

    #[test]
    fn a_token_is_read_as_clients_write_it() {
        for value in ["Bearer T", "bearer T", "BEARER   T ", "  Bearer\tT"] {
            assert_eq!(shown(&with("authorization", value)), Some("T"), "{value:?}");
        }
        assert_eq!(shown(&with("x-api-key", " T ")), Some("T"));
        assert_eq!(shown(&with("api-key", "T")), Some("T"));
        for value in ["T", "Bearer", "Bearer  ", "Basic T", "BearerT"] {
            let headers = with("authorization", value);
            assert_eq!(shown(&headers), None, "{value:?}");
            assert!(shows_token(&headers));
        }
        assert!(!shows_token(&HeaderMap::new()));
    }

    #[test]
    fn an_open_edge_answers_to_this_machines_names_alone() {
        let open = Access::new(None, None);
        let secret = Access::new(Some("T"), None);
        for host in [
            "localhost",
            "LOCALHOST:7470",
            "127.0.0.1:7470",
            "127.9.9.9",
            "[::1]:7470",
            "localhost.",
            "edge.localhost:80",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(open.meant(&with("host", host)).is_ok(), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:7470",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "192.168.0.2",
            "0.0.0.0",
            "",
            "a b",
            "user@127.0.0.1.evil",
        ] {
            assert!(open.meant(&with("host", host)).is_err(), "{host}");
            assert!(secret.meant(&with("host", host)).is_ok());
        }
        assert!(open.meant(&HeaderMap::new()).is_ok(), "browsers always say one");
    }
}
