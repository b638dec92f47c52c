//! The edge's own certificate: made at the first start, kept, and known to devices by its SHA-256.

use crate::state::{StateError, StateFolder};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use tandem_protocol::CertificateId;

/// Certificate and key in one file, so that one is never without the other.
const FILE: &str = "identity.pem";
const REMEDY: &str = "move it away and a new one is made; every device must then pair again";

/// What the edge shows to devices.
#[derive(Clone)]
pub struct Identity {
    /// What devices know it by.
    pub certificate: CertificateId,
    pub(crate) server: Arc<ServerConfig>,
}

impl Identity {
    /// Reads the identity in a folder, or makes one.
    ///
    /// # Errors
    /// If the file cannot be used or written.
    pub fn load_or_create(folder: &StateFolder) -> Result<Self, StateError> {
        let _lock = folder.lock(FILE)?;
        let pem = match folder.read(FILE)? {
            Some(pem) => pem,
            None => {
                let pem = create().map_err(|e| StateError::Certificate(e.to_string()))?;
                folder.write(FILE, pem.as_bytes())?;
                pem.into_bytes()
            }
        };
        Self::from_pem(&pem).map_err(|reason| {
            let path = folder.path().join(FILE);
            StateError::Damaged { path, reason, remedy: REMEDY }
        })
    }

    fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let certificate = CertificateDer::from_pem_slice(pem).map_err(|e| e.to_string())?;
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|e| e.to_string())?;
        let id = CertificateId::of(&certificate);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .and_then(|b| b.with_no_client_auth().with_single_cert(vec![certificate], key))
            .map_err(|e| e.to_string())?;
        Ok(Self { certificate: id, server: Arc::new(server) })
    }
}

/// A self-signed certificate without an end that anyone lives to see: it is pinned, not believed.
fn create() -> Result<String, rcgen::Error> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(vec!["tandem-edge.local".to_owned()])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "Tandem edge");
    let certificate = params.self_signed(&key)?;
    Ok(certificate.pem() + &key.serialize_pem())
}
