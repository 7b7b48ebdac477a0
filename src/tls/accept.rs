//! TLS from clients, negotiated or direct.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::warn;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{ALPN, TlsError, end_point};

/// Which certificate clients see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientTls {
    /// No TLS.
    Off,
    /// One that is made in memory.
    #[default]
    SelfSigned,
    /// One from files, PEM, read again when they change.
    Files {
        /// The certificate chain, leaf first.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
        /// The CAs that clients' certificates are verified with, several while one takes the other's place. A client may
        /// have none; one that is not signed by them ends the handshake.
        client_ca: Option<PathBuf>,
    },
}

/// A client's stream inside TLS.
#[derive(Debug)]
pub struct Encrypted<S> {
    /// The stream.
    pub stream: TlsStream<S>,
    /// Channel binding data: what the client has seen of our certificate in this handshake, where the certificate's
    /// algorithm defines it. The one in force may be another by now.
    pub end_point: Option<Arc<[u8]>>,
}

/// The certificate that the client has shown, verified by the CAs of [`ClientTls::Files`] in this very handshake: none is
/// resumed where there are CAs.
#[must_use]
pub fn client_certificate<S>(stream: &TlsStream<S>) -> Option<CertificateDer<'static>> {
    Some(stream.get_ref().1.peer_certificates()?.first()?.clone().into_owned())
}

/// Whether the client named PostgreSQL's protocol. Mandatory where TLS comes with the first byte (libpq's
/// `sslnegotiation=direct`); after SSLRequest older clients do not.
///
/// # Errors
/// Where it did not: what it says could be another protocol's, tricked into this one (ALPACA).
pub fn names_postgres<S>(stream: &TlsStream<S>) -> Result<(), TlsError> {
    if stream.get_ref().1.alpn_protocol() == Some(ALPN) { Ok(()) } else { Err(TlsError::NoAlpn) }
}

/// Accepts TLS.
#[derive(Debug)]
pub struct Acceptor {
    current: Mutex<Current>,
    files: Option<Files>,
}

#[derive(Debug)]
struct Current {
    offer: Offer,
    stamps: Option<Vec<Stamp>>,
}

/// What a handshake is done with.
#[derive(Clone, Debug)]
struct Offer {
    config: Arc<ServerConfig>,
    end_point: Option<Arc<[u8]>>,
    good_until: Option<SystemTime>,
}

/// The files of [`ClientTls::Files`].
#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// What changes when a file is replaced or rewritten.
type Stamp = (SystemTime, u64, u64);

impl Acceptor {
    /// `None` where TLS is off.
    ///
    /// # Errors
    /// Where the files cannot be read or do not fit together.
    pub fn new(tls: &ClientTls) -> Result<Option<Self>, TlsError> {
        Ok(match tls {
            ClientTls::Off => None,
            ClientTls::SelfSigned => Some(Self { current: Mutex::new(self_signed()?), files: None }),
            ClientTls::Files { certificate, key, client_ca } => {
                let files = Files { certificate: certificate.clone(), key: key.clone(), client_ca: client_ca.clone() };
                Some(Self { current: Mutex::new(files.read()?), files: Some(files) })
            }
        })
    }

    /// Does the handshake.
    ///
    /// # Errors
    /// Where the client breaks it off, or shows a certificate that is not to be trusted.
    pub async fn accept<S>(&self, io: S) -> Result<Encrypted<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Offer { config, end_point, .. } = self.offer();
        let stream = TlsAcceptor::from(config).accept(io).await.map_err(TlsError::Handshake)?;
        Ok(Encrypted { stream, end_point })
    }

    /// Until when the certificate is good that is in force, where it is from files.
    pub fn good_until(&self) -> Option<SystemTime> {
        self.files.as_ref().and_then(|_| self.offer().good_until)
    }

    /// What is in force; files that have changed are read again, and broken ones leave it as it was.
    fn offer(&self) -> Offer {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = &self.files {
            let stamps = files.stamps();
            if stamps.is_some() && stamps != current.stamps {
                match files.read() {
                    Ok(fresh) => *current = fresh,
                    Err(error) => {
                        warn!(%error, "the new TLS certificate, key or CA is not usable; the old one stays");
                        current.stamps = stamps;
                    }
                }
            }
        }
        current.offer.clone()
    }
}

impl Files {
    fn stamps(&self) -> Option<Vec<Stamp>> {
        [&self.certificate, &self.key].into_iter().chain(&self.client_ca).map(|path| stamp(path)).collect()
    }

    fn read(&self) -> Result<Current, TlsError> {
        let stamps = self.stamps();
        let chain = certificates(&self.certificate)?;
        let private = PrivateKeyDer::from_pem_slice(&read(&self.key)?).map_err(|error| unusable(&self.key, &error))?;
        let verifier = self.client_ca.as_deref().map(client_verifier).transpose()?;
        let offer = offer(chain, private, verifier).map_err(|error| unusable(&self.key, &error))?;
        Ok(Current { offer, stamps })
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let data = fs::metadata(path).ok()?;
    Some((data.modified().ok()?, data.len(), data.ino()))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn unusable(path: &Path, why: &dyn ToString) -> TlsError {
    TlsError::Material { what: path.display().to_string(), why: why.to_string() }
}

/// All certificates in a file, of which there is at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(path, &error))?;
    if all.is_empty() { Err(unusable(path, &"it holds no certificate")) } else { Ok(all) }
}

/// Verifies the certificates of clients that have one. Those that have none prove who they are otherwise, or not at all.
fn client_verifier(path: &Path) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| unusable(path, &error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .allow_unauthenticated()
        .build()
        .map_err(|error| unusable(path, &error))
}

fn self_signed() -> Result<Current, TlsError> {
    let unusable =
        |error: rcgen::Error| TlsError::Material { what: "the self-signed certificate".into(), why: error.to_string() };
    let mut params =
        CertificateParams::new(vec!["localhost".to_owned(), "*.localhost".to_owned()]).map_err(unusable)?;
    params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
    params.subject_alt_names.push(SanType::IpAddress(std::net::Ipv6Addr::LOCALHOST.into()));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "pgferry on localhost");
    let key = KeyPair::generate().map_err(unusable)?;
    let certificate = params.self_signed(&key).map_err(unusable)?;
    let private = PrivateKeyDer::try_from(key.serialize_der())
        .map_err(|why| TlsError::Material { what: "the self-signed key".into(), why: why.to_owned() })?;
    let offer = offer(vec![certificate.der().clone()], private, None)
        .map_err(|error| TlsError::Material { what: "the self-signed certificate".into(), why: error.to_string() })?;
    Ok(Current { offer, stamps: None })
}

fn offer(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<Offer, rustls::Error> {
    let end_point = chain.first().and_then(|leaf| end_point::hash(leaf)).map(Arc::from);
    let good_until = chain.first().and_then(|leaf| good_until(leaf));
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    let mut config = match verifier {
        None => builder.with_no_client_auth().with_single_cert(chain, key)?,
        Some(verifier) => {
            let mut config = builder.with_client_cert_verifier(verifier).with_single_cert(chain, key)?;
            // A session that is resumed brings its certificate along, and nobody looks whether it has expired since, nor
            // whether its CA is still among ours. PostgreSQL resumes none either (be-secure-openssl.c).
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            config
        }
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Offer { config: Arc::new(config), end_point, good_until })
}

/// `None` where it cannot be read, which rustls says better.
fn good_until(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
#[path = "accept_tests.rs"]
mod tests;
