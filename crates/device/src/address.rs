//! Where an edge is, what opens it, and how it is known.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use tandem_protocol::{CertificateId, SOCKET_PATH};
use thiserror::Error;

/// An edge's address, token and certificate. The token is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct EdgeAddress {
    /// `HOST:PORT`.
    authority: String,
    token: Option<String>,
    security: Security,
}

/// How a connection is protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Security {
    /// Not at all: for this machine, unless someone insists.
    Plain {
        /// Someone insists.
        beyond_loopback: bool,
    },
    /// TLS, but it is not known to whom; no connection is made.
    Unpaired,
    /// TLS to this certificate.
    Pinned(CertificateId),
    /// TLS to whoever answers, for pairing, which then proves who it was.
    AnyCertificate,
}

/// A text that names no edge.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AddressError {
    /// Not of the form that is expected.
    #[error("`{0}` is not an edge's address; it looks like 192.168.1.20:7470")]
    Form(String),
}

/// Port when none is given: the edge's own default.
const DEFAULT_PORT: u16 = 7470;
/// Characters of a host's name at most, as in DNS.
const MAX_HOST: usize = 255;

impl FromStr for EdgeAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let form = || AddressError::Form(text.chars().take(200).collect());
        let (scheme, rest) = match text.trim().split_once("://") {
            Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
            None => (None, text.trim()),
        };
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
        if name.is_empty() || name.len() > MAX_HOST || port == 0 || !name.chars().all(fits) {
            return Err(form());
        }
        let plain = Security::Plain { beyond_loopback: false };
        let security = match scheme.as_deref() {
            Some("ws" | "http") => plain,
            Some("wss" | "https") => Security::Unpaired,
            None if is_loopback(name) => plain,
            None => Security::Unpaired,
            Some(_) => return Err(form()),
        };
        Ok(Self { authority: format!("{name}:{port}"), token: None, security })
    }
}

fn is_loopback(name: &str) -> bool {
    let ip = name.trim_matches(['[', ']']).parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

impl EdgeAddress {
    /// With the token that the edge wants.
    #[must_use]
    pub fn with_token(mut self, token: Option<String>) -> Self {
        self.token = token.filter(|t| !t.is_empty());
        self
    }

    /// With TLS to this certificate and no other.
    #[must_use]
    pub fn pinned(mut self, certificate: CertificateId) -> Self {
        self.security = Security::Pinned(certificate);
        self
    }

    /// With TLS to any certificate; what is learnt about it must be proved before it is used.
    pub(crate) fn with_any_certificate(mut self) -> Self {
        self.security = Security::AnyCertificate;
        self
    }

    /// Lets plain text leave this machine, for `ws://` alone. Whoever is on the way reads and changes
    /// everything, the token too.
    #[must_use]
    pub fn insecure_plain(mut self) -> Self {
        if let Security::Plain { beyond_loopback } = &mut self.security {
            *beyond_loopback = true;
        }
        self
    }

    /// `HOST:PORT`.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    pub(crate) fn is_secure(&self) -> bool {
        !matches!(self.security, Security::Plain { .. })
    }

    /// The URL of the WebSocket.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{self}{SOCKET_PATH}")
    }

    /// Whether it is on this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = self.authority.rsplit_once(':').map_or(&*self.authority, |(host, _)| host);
        is_loopback(host)
    }

    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    pub(crate) fn security(&self) -> &Security {
        &self.security
    }
}

impl fmt::Display for EdgeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure() { "wss" } else { "ws" };
        write!(f, "{scheme}://{}", self.authority)
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
            ("box.local", "wss://box.local:7470/v1/ws"),
            ("localhost:9", "ws://localhost:9/v1/ws"),
            ("[::1]", "ws://[::1]:7470/v1/ws"),
            ("wss://127.0.0.1", "wss://127.0.0.1:7470/v1/ws"),
            ("http://box:8000/", "ws://box:8000/v1/ws"),
            ("ws://[::1]:9/v1/ws", "ws://[::1]:9/v1/ws"),
            (" 10.0.0.2:1 ", "wss://10.0.0.2:1/v1/ws"),
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
        assert!("x".repeat(300).parse::<EdgeAddress>().is_err());
    }

    #[test]
    fn an_edge_that_is_not_paired_is_not_connected_to() {
        let address: EdgeAddress = "10.0.0.2".parse().expect("an address");
        assert_eq!(*address.security(), Security::Unpaired);
        // Insisting on plain text is for `ws://` alone.
        assert_eq!(*address.clone().insecure_plain().security(), Security::Unpaired);
        let id = CertificateId([1; 32]);
        assert_eq!(*address.pinned(id).security(), Security::Pinned(id));
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
