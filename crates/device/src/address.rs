//! Where an edge is and what opens it.

use std::fmt;
use std::str::FromStr;
use tandem_protocol::SOCKET_PATH;
use thiserror::Error;

/// An edge's address and token. The token is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct EdgeAddress {
    /// `HOST:PORT`.
    authority: String,
    token: Option<String>,
}

/// A text that names no edge.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AddressError {
    /// Not of the form that is expected.
    #[error("`{0}` is not an edge's address; it looks like ws://192.168.1.20:7470")]
    Form(String),
    /// `wss://`.
    #[error(
        "`{0}` asks for TLS, which this version does not speak; use ws:// in a network you trust"
    )]
    Tls(String),
}

/// Port when none is given: the edge's own default.
const DEFAULT_PORT: u16 = 7470;

impl FromStr for EdgeAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let form = || AddressError::Form(text.chars().take(200).collect());
        let (scheme, rest) = text.trim().split_once("://").unwrap_or(("ws", text.trim()));
        match scheme.to_ascii_lowercase().as_str() {
            "ws" | "http" => {}
            "wss" | "https" => return Err(AddressError::Tls(text.chars().take(200).collect())),
            _ => return Err(form()),
        }
        let (host, path) = rest.split_once('/').map_or((rest, ""), |(h, p)| (h, p));
        if !(path.is_empty() || format!("/{path}") == SOCKET_PATH) {
            return Err(form());
        }
        // An IPv6 address is in brackets, so a colon after them begins the port.
        let after = host.rfind(']').map_or(0, |i| i + 1);
        let (name, port) = match host[after..].rfind(':') {
            Some(i) => {
                let port: u16 = host[after + i + 1..].parse().map_err(|_| form())?;
                (&host[..after + i], port)
            }
            None => (host, DEFAULT_PORT),
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._[]:%".contains(c);
        if name.is_empty() || port == 0 || !name.chars().all(fits) {
            return Err(form());
        }
        Ok(Self { authority: format!("{name}:{port}"), token: None })
    }
}

impl EdgeAddress {
    /// With the token that the edge wants.
    #[must_use]
    pub fn with_token(mut self, token: Option<String>) -> Self {
        self.token = token.filter(|t| !t.is_empty());
        self
    }

    /// The URL of the WebSocket.
    #[must_use]
    pub fn url(&self) -> String {
        format!("ws://{}{SOCKET_PATH}", self.authority)
    }

    /// Whether it is on this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = self.authority.rsplit_once(':').map_or(&*self.authority, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let address = host.parse::<std::net::IpAddr>();
        host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|a| a.is_loopback())
    }

    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }
}

impl fmt::Display for EdgeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ws://{}", self.authority)
    }
}

impl fmt::Debug for EdgeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EdgeAddress({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_forms_lead_to_the_socket() {
        for (text, url) in [
            ("ws://127.0.0.1:7470", "ws://127.0.0.1:7470/v1/ws"),
            ("box.local", "ws://box.local:7470/v1/ws"),
            ("http://box:8000/", "ws://box:8000/v1/ws"),
            ("ws://[::1]:9/v1/ws", "ws://[::1]:9/v1/ws"),
            (" 10.0.0.2:1 ", "ws://10.0.0.2:1/v1/ws"),
        ] {
            let address: EdgeAddress = text.parse().expect(text);
            assert_eq!(address.url(), url);
        }
    }

    #[test]
    fn other_texts_are_refused_with_an_example() {
        for text in
            ["", "ws://", "ftp://box", "ws://box:port", "ws://box:0", "ws://a b", "ws://h/x"]
        {
            assert!(matches!(text.parse::<EdgeAddress>(), Err(AddressError::Form(_))), "{text}");
        }
        assert!(matches!("wss://box".parse::<EdgeAddress>(), Err(AddressError::Tls(_))));
    }

    #[test]
    fn this_machine_is_recognised() {
        let here = |text: &str| text.parse::<EdgeAddress>().expect(text).is_loopback();
        assert!(here("localhost") && here("ws://127.0.0.1:9") && here("[::1]:9"));
        assert!(!here("box.local") && !here("10.0.0.2:1") && !here("[fe80::1]:9"));
    }

    #[test]
    fn the_token_is_not_shown() {
        let address: EdgeAddress = "box".parse().expect("an address");
        let address = address.with_token(Some("secret".into()));
        assert!(!format!("{address:?}{address}").contains("secret"));
    }
}
