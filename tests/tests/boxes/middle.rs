//! One in the middle: ends TLS with a certificate of its own and passes everything on to the edge.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub struct Middle {
    pub address: String,
    bytes: Arc<AtomicU64>,
}

impl Middle {
    /// What devices have sent through it.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }
}

pub async fn start(edge: &str) -> Middle {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("wss://{}", listener.local_addr().expect("its address"));
    let edge = edge.trim_start_matches("wss://").to_owned();
    let bytes = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&bytes);
    let acceptor = TlsAcceptor::from(Arc::new(server()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, edge, count) = (acceptor.clone(), edge.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                let Ok(mut device) = acceptor.accept(stream).await else { return };
                let stream = TcpStream::connect(edge).await.expect("the edge");
                let name = ServerName::try_from("edge").expect("a name");
                let connector = TlsConnector::from(Arc::new(client()));
                let mut edge = connector.connect(name, stream).await.expect("the edge's TLS");
                let mut up = [0; 4096];
                let mut down = [0; 4096];
                loop {
                    let passed = tokio::select! {
                        read = device.read(&mut up) => match read {
                            Ok(n) if n > 0 => {
                                count.fetch_add(n as u64, Ordering::SeqCst);
                                edge.write_all(&up[..n]).await
                            }
                            _ => break,
                        },
                        read = edge.read(&mut down) => match read {
                            Ok(n) if n > 0 => device.write_all(&down[..n]).await,
                            _ => break,
                        },
                    };
                    if passed.is_err()
                        || edge.flush().await.is_err()
                        || device.flush().await.is_err()
                    {
                        break;
                    }
                }
            });
        }
    });
    Middle { address, bytes }
}

fn server() -> ServerConfig {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["edge".to_owned()]).expect("parameters");
    let certificate = params.self_signed(&key).expect("a certificate");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a certificate")
}

/// Believes every certificate.
pub fn client() -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth()
}

#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519]
    }
}
