//! TLS from clients, negotiated or direct.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::warn;

use super::{ALPN, TlsError};

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
    },
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
    files: Option<(PathBuf, PathBuf)>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    stamp: Option<[Stamp; 2]>,
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
            ClientTls::Files { certificate, key } => Some(Self {
                current: Mutex::new(from_files(certificate, key)?),
                files: Some((certificate.clone(), key.clone())),
            }),
        })
    }

    /// Does the handshake.
    ///
    /// # Errors
    /// Where the client breaks it off.
    pub async fn accept<S>(&self, io: S) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        TlsAcceptor::from(self.config()).accept(io).await.map_err(TlsError::Handshake)
    }

    /// The configuration in force; files that have changed are read again, and broken ones leave it as it was.
    fn config(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((certificate, key)) = &self.files {
            let stamp = stamps(certificate, key);
            if stamp.is_some() && stamp != current.stamp {
                match from_files(certificate, key) {
                    Ok(fresh) => *current = fresh,
                    Err(error) => {
                        warn!(%error, "the new TLS certificate is not usable; the old one stays");
                        current.stamp = stamp;
                    }
                }
            }
        }
        Arc::clone(&current.config)
    }
}

fn stamps(certificate: &Path, key: &Path) -> Option<[Stamp; 2]> {
    Some([stamp(certificate)?, stamp(key)?])
}

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let data = fs::metadata(path).ok()?;
    Some((data.modified().ok()?, data.len(), data.ino()))
}

fn from_files(certificate: &Path, key: &Path) -> Result<Current, TlsError> {
    let stamp = stamps(certificate, key);
    let read = |path: &Path| fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source });
    let unusable =
        |path: &Path, why: &dyn ToString| TlsError::Material { what: path.display().to_string(), why: why.to_string() };
    let chain = CertificateDer::pem_slice_iter(&read(certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(certificate, &error))?;
    if chain.is_empty() {
        return Err(unusable(certificate, &"it holds no certificate"));
    }
    let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| unusable(key, &error))?;
    let config = server_config(chain, private).map_err(|error| unusable(key, &error))?;
    Ok(Current { config, stamp })
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
    let config = server_config(vec![certificate.der().clone()], private)
        .map_err(|error| TlsError::Material { what: "the self-signed certificate".into(), why: error.to_string() })?;
    Ok(Current { config, stamp: None })
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}
