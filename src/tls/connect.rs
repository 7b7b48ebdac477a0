//! TLS to a server, by sslmode (libpq's documentation, "SSL Mode Descriptions").

use std::{io, sync::Arc};

use bytes::BytesMut;
use rustls::{
    CertificateError, ClientConfig,
    client::danger::ServerCertVerifier,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{ALPN, TlsError, end_point, verify::Verifier};
use crate::{
    pg::startup::encode_ssl_request,
    upstream::{CaBy, ClientIdentity, TlsFacts, TlsMode},
};

/// An encrypted stream to a server.
#[derive(Debug)]
pub struct Encrypted<S> {
    /// The stream.
    pub stream: TlsStream<S>,
    /// The channel binding data `tls-server-end-point` (RFC 5929), where the certificate's algorithm defines it.
    pub end_point: Option<Vec<u8>>,
    /// Who says that the CA is the right one that the certificate was verified with; `None` where it was not.
    pub verified_by: Option<CaBy>,
}

/// Asks the server for TLS and does the handshake as `facts` say. Any mode below `Require` counts as `Require`: who
/// calls this wants TLS.
///
/// # Errors
/// Where the server has no TLS, or its certificate is not what the mode demands. Never a plaintext stream.
pub async fn connect<S>(mut io: S, facts: &TlsFacts) -> Result<Encrypted<S>, TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = client_config(facts)?;
    let mut request = BytesMut::new();
    encode_ssl_request(&mut request);
    io.write_all(&request).await?;
    io.flush().await?;
    // One byte and no more: what came behind it unencrypted would be taken for the server's (CVE-2021-23222).
    match io.read_u8().await? {
        b'S' => {}
        b'N' => return Err(TlsError::Refused),
        b'E' => return Err(TlsError::Unwilling),
        _ => return Err(TlsError::Protocol),
    }
    let name = server_name(facts)?;
    let stream = TlsConnector::from(config).connect(name, io).await.map_err(|error| refined(error, facts))?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let end_point = certificate.and_then(|certificate| end_point::hash(certificate));
    let verified = matches!(facts.mode, TlsMode::VerifyCa | TlsMode::VerifyFull);
    Ok(Encrypted { stream, end_point, verified_by: verified.then(|| facts.ca_by.clone()) })
}

fn server_name(facts: &TlsFacts) -> Result<ServerName<'static>, TlsError> {
    match (&facts.server_name, facts.mode) {
        (Some(name), _) => ServerName::try_from(name.clone()).map_err(|error| TlsError::Material {
            what: format!("the server name \"{name}\""),
            why: error.to_string(),
        }),
        (None, TlsMode::VerifyFull) => Err(TlsError::Material {
            what: "sslmode verify-full".to_owned(),
            why: "the name that the server's certificate carries is not known".to_owned(),
        }),
        // Not verified; an address keeps the name out of the handshake.
        (None, _) => Ok(ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into())),
    }
}

fn client_config(facts: &TlsFacts) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match facts.mode {
        TlsMode::VerifyCa | TlsMode::VerifyFull => {
            let pem = facts.ca_pem.as_deref().ok_or(TlsError::NoCa)?;
            Verifier::given(pem, facts.mode, &provider)?
        }
        TlsMode::Disable | TlsMode::Allow | TlsMode::Prefer | TlsMode::Require => Verifier::any(&provider),
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| material("TLS", &error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &facts.client_identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = client_identity(identity)?;
            config.with_client_auth_cert(chain, key).map_err(|error| material("the client certificate", &error))?
        }
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

fn client_identity(
    identity: &ClientIdentity,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = CertificateDer::pem_slice_iter(&identity.certificate_pem)
        .collect::<Result<_, _>>()
        .map_err(|error| material("the client certificate", &error))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.expose_secret().as_bytes())
        .map_err(|_| material("the client certificate's key", &"it is no PEM private key"))?;
    Ok((chain, key))
}

fn material(what: &str, why: &dyn ToString) -> TlsError {
    TlsError::Material { what: what.to_owned(), why: why.to_string() }
}

/// What rustls says about a certificate, as an error of its own.
fn refined(error: io::Error, facts: &TlsFacts) -> TlsError {
    let certificate =
        error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).and_then(|inner| match inner {
            rustls::Error::InvalidCertificate(problem) => Some(problem.clone()),
            _ => None,
        });
    match certificate {
        Some(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) => {
            TlsError::WrongName(facts.server_name.clone().unwrap_or_default())
        }
        Some(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => TlsError::Expired,
        Some(_) => TlsError::Untrusted,
        None => TlsError::Handshake(error),
    }
}
