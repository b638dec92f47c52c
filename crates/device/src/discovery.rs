//! Edges in the local network, found by mDNS.
//!
//! What comes from the network only fills a list to choose from; whom one talks to is decided by
//! pairing.

use mdns_sd::{ResolvedService, ServiceDaemon, ServiceEvent};
use serde::Serialize;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;
use tandem_protocol::{SERVICE_TYPE, clean_name};

/// Edges in the list at most, whatever the network says.
const MOST: usize = 64;

/// An edge that says it is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Its model.
    pub model: String,
    /// Its version.
    pub version: String,
    /// `HOST:PORT`.
    pub address: String,
    /// The first digits of its certificate's SHA-256.
    pub certificate: String,
}

/// Listens for `time`.
///
/// # Errors
/// If the system gives no way to ask the network, for people.
pub async fn discover(time: Duration) -> Result<Vec<Found>, String> {
    let failed = |e: mdns_sd::Error| format!("cannot look for boxes in this network: {e}");
    let daemon = ServiceDaemon::new().map_err(failed)?;
    let events = daemon.browse(SERVICE_TYPE).map_err(failed)?;
    let mut found = HashMap::new();
    let listening = async {
        while let Ok(event) = events.recv_async().await {
            match event {
                ServiceEvent::ServiceResolved(service) if found.len() < MOST => {
                    if let Some(edge) = read(&service) {
                        found.insert(service.get_fullname().to_owned(), edge);
                    }
                }
                ServiceEvent::ServiceRemoved(_, name) => {
                    found.remove(&name);
                }
                _ => {}
            }
        }
    };
    let _ = tokio::time::timeout(time, listening).await;
    let _ = daemon.shutdown();
    let mut found: Vec<Found> = found.into_values().collect();
    found.sort_by(|a, b| (&a.name, &a.address).cmp(&(&b.name, &b.address)));
    Ok(found)
}

fn read(service: &ResolvedService) -> Option<Found> {
    let text = |key: &str| clean_name(service.get_property_val_str(key).unwrap_or_default());
    let mut addresses: Vec<IpAddr> =
        service.get_addresses().iter().map(mdns_sd::ScopedIp::to_ip_addr).collect();
    // A link-local address of IPv6 is of no use without its interface.
    addresses.retain(|ip| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()));
    addresses.sort_by_key(|ip| (ip.is_loopback(), ip.is_ipv6(), *ip));
    let host = match addresses.first()? {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let port = service.get_port();
    if port == 0 {
        return None;
    }
    let digits = |c: &char| c.is_ascii_hexdigit();
    Some(Found {
        name: Some(text("name")).filter(|n| !n.is_empty()).unwrap_or_else(|| host.clone()),
        model: text("model"),
        version: text("v"),
        address: format!("{host}:{port}"),
        certificate: text("fp").chars().filter(digits).take(16).collect(),
    })
}
