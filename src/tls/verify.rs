//! Certificate verification as libpq's sslmode has it, which is not what browsers have.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

use super::TlsError;
use crate::upstream::TlsMode;

/// Verifies a server. Whatever it trusts, the server must hold the certificate's key.
#[derive(Debug)]
pub(super) struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

/// Which certificates are trusted.
#[derive(Debug)]
enum Trust {
    /// `require`: any. The stream lies inside TLS to the API server, or was asked for without verification.
    Any,
    /// `verify-ca` and `verify-full`: one that chains to a given certificate, or is a given one (a self-signed server
    /// certificate given as its own CA, which OpenSSL accepts and webpki does not).
    Given { chain: Option<Arc<WebPkiServerVerifier>>, leaves: Vec<CertificateDer<'static>>, mode: TlsMode },
}

impl Verifier {
    /// Trusts any certificate.
    pub(super) fn any(provider: &Arc<CryptoProvider>) -> Arc<Self> {
        Arc::new(Self { trust: Trust::Any, provider: Arc::clone(provider) })
    }

    /// Trusts the PEM certificates given, and what they have signed.
    pub(super) fn given(pem: &[u8], mode: TlsMode, provider: &Arc<CryptoProvider>) -> Result<Arc<Self>, TlsError> {
        let unusable = |why: &dyn ToString| TlsError::Material { what: "the CA".to_owned(), why: why.to_string() };
        let leaves =
            CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(|error| unusable(&error))?;
        if leaves.is_empty() {
            return Err(unusable(&"it holds no PEM certificate"));
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(leaves.iter().cloned());
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build().ok();
        Ok(Arc::new(Self { trust: Trust::Given { chain, leaves, mode }, provider: Arc::clone(provider) }))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Trust::Given { chain, leaves, mode } = &self.trust else { return Ok(ServerCertVerified::assertion()) };
        if leaves.iter().any(|given| given == leaf) {
            if *mode == TlsMode::VerifyFull {
                let parsed = rustls::server::ParsedCertificate::try_from(leaf)?;
                rustls::client::verify_server_name(&parsed, name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        let Some(chain) = chain else {
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        match chain.verify_server_cert(leaf, intermediates, name, ocsp, now) {
            // webpki looks at the name last, so everything else is right.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if *mode == TlsMode::VerifyCa => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
