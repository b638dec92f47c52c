//! Connections to edges: plain on loopback, otherwise TLS to the one certificate that is pinned.
//!
//! No authority vouches for an edge and no name is checked: a certificate is the right one if its
//! SHA-256 is the one that pairing learnt. The signature is checked, so a copy of the certificate
//! without its key is of no use.

use crate::address::{EdgeAddress, Security};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::sync::Arc;
use tandem_protocol::CertificateId;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What carries a WebSocket.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Why there is no connection. The text says what to do.
#[derive(Debug, Error)]
pub(crate) enum ConnectError {
    #[error("cannot reach the edge at {0}: {1}; is it running and in this network?")]
    Unreachable(String, std::io::Error),
    #[error(
        "{0} is another machine, and plain text is for this machine only; pair with the edge: run \
         `tandem-edge pair` on it"
    )]
    Plain(String),
    #[error("this device is not paired with {0} yet; run `tandem-edge pair` on that machine")]
    NotPaired(String),
    #[error(
        "the box at {0} shows another certificate than the one that it was paired with, so nothing \
         was sent to it. Either its files were lost or made anew, or another machine has taken its \
         place. If you trust it, pair it again: run `tandem-edge pair` on the box"
    )]
    Changed(String),
    #[error(
        "no secure connection to {0} ({1}); if it is an edge, it may serve its own machine only: \
         start it with --listen 0.0.0.0:7470 or --tls"
    )]
    Tls(String, String),
}

/// Opens a connection; also says which certificate was seen, if it is a TLS one.
pub(crate) async fn connect(
    address: &EdgeAddress,
) -> Result<(Box<dyn Stream>, Option<CertificateId>), ConnectError> {
    let at = || address.to_string();
    let wanted = match address.security() {
        Security::Plain { .. } => None,
        Security::Unpaired => return Err(ConnectError::NotPaired(at())),
        Security::Pinned(id) => Some(Some(*id)),
        Security::AnyCertificate => Some(None),
    };
    let stream = TcpStream::connect(address.authority())
        .await
        .map_err(|e| ConnectError::Unreachable(at(), e))?;
    // No Nagle: a round is one small frame that must go out at once.
    let _ = stream.set_nodelay(true);
    let Some(pin) = wanted else {
        // What the name led to counts, not the name.
        let local = stream.peer_addr().is_ok_and(|peer| peer.ip().to_canonical().is_loopback());
        let allowed = matches!(address.security(), Security::Plain { beyond_loopback: true });
        if !(local || allowed) {
            return Err(ConnectError::Plain(at()));
        }
        return Ok((Box::new(stream), None));
    };
    let config = config(pin).map_err(|e| ConnectError::Tls(at(), e.to_string()))?;
    // Not checked and, as an address, not sent.
    let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
    match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
        Ok(stream) => {
            let seen = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let seen = seen.map(|der| CertificateId::of(der));
            Ok((Box::new(stream), seen))
        }
        Err(e) => {
            let tls = e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
            let changed = CertificateError::ApplicationVerificationFailure;
            Err(match tls {
                Some(rustls::Error::InvalidCertificate(why)) if *why == changed => {
                    ConnectError::Changed(at())
                }
                Some(why) => ConnectError::Tls(at(), why.to_string()),
                None => ConnectError::Unreachable(at(), e),
            })
        }
    }
}

fn config(pin: Option<CertificateId>) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Pin { wanted: pin, provider: Arc::clone(&provider) });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    // Every connection shows the certificate.
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// Accepts one certificate; or, while pairing by a typed code, any, whose SHA-256 then goes into the
/// proofs.
#[derive(Debug)]
struct Pin {
    wanted: Option<CertificateId>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.wanted.is_none_or(|wanted| wanted == CertificateId::of(end_entity)) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let schemes = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, schemes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
