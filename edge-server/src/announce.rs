//! Says in the local network that an edge is here, by mDNS.

use mdns_sd::{ServiceDaemon, ServiceInfo};
use std::net::SocketAddr;
use std::time::Duration;
use tandem_protocol::{CertificateId, EdgeInfo, SERVICE_TYPE, clean_name};

/// A label of DNS has so many bytes at most.
const LABEL: usize = 63;

/// Lasts until it is dropped.
pub(crate) struct Announcement {
    daemon: ServiceDaemon,
    name: String,
}

impl Announcement {
    pub(crate) fn start(
        edge: &EdgeInfo,
        address: SocketAddr,
        certificate: &CertificateId,
    ) -> Result<Self, mdns_sd::Error> {
        let daemon = ServiceDaemon::new()?;
        // Two edges on one machine, or two machines of one name, must not answer for each other.
        let mut label = clean_name(&edge.name).replace('.', " ");
        while label.len() + 5 > LABEL {
            label.pop();
        }
        let short = certificate.short();
        let label = format!("{label} {}", &short[..4]);
        let host = format!("tandem-{short}.local.");
        let txt = [
            ("v", edge.version.as_str()),
            ("model", edge.model.as_str()),
            ("name", edge.name.as_str()),
            ("fp", short.as_str()),
        ];
        // Text in a record has a length of one byte.
        let txt: Vec<(&str, String)> =
            txt.into_iter().map(|(k, v)| (k, v.chars().take(60).collect())).collect();
        let ip = address.ip();
        let own = if ip.is_unspecified() { String::new() } else { ip.to_string() };
        let mut service =
            ServiceInfo::new(SERVICE_TYPE, &label, &host, own.as_str(), address.port(), &txt[..])?;
        if ip.is_unspecified() {
            service = service.enable_addr_auto();
        }
        let name = service.get_fullname().to_owned();
        daemon.register(service)?;
        Ok(Self { daemon, name })
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        // The network is told that it is gone; a daemon that is gone already needs no more.
        if let Ok(done) = self.daemon.unregister(&self.name) {
            let _ = done.recv_timeout(Duration::from_millis(500));
        }
        let _ = self.daemon.shutdown();
    }
}
