use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, Issuer};
use rustls::{ClientConfig, HandshakeKind, pki_types::ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio_rustls::TlsConnector;

use super::*;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "people");
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn client(&self) -> Identity {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        params.distinguished_name.push(DnType::CommonName, "alice");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.der().clone(), key)
    }
}

type Identity = (CertificateDer<'static>, KeyPair);

/// A server's files; `place` changes one in a single step, as a mounted Secret does.
struct Folder(TempDir);

impl Folder {
    fn new(client_ca: Option<&str>) -> Self {
        let folder = Self(tempfile::tempdir().expect("a directory"));
        folder.place_certificate();
        if let Some(pem) = client_ca {
            folder.place("ca.crt", pem);
        }
        folder
    }

    fn place(&self, name: &str, text: &str) {
        fs::write(self.0.path().join("next"), text).expect("written");
        fs::rename(self.0.path().join("next"), self.0.path().join(name)).expect("renamed");
    }

    fn place_certificate(&self) -> CertificateDer<'static> {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["bastion".to_owned()]).expect("parameters");
        let certificate = params.self_signed(&key).expect("a certificate");
        self.place("tls.key", &key.serialize_pem());
        self.place("tls.crt", &certificate.pem());
        certificate.der().clone()
    }

    fn acceptor(&self) -> Result<Acceptor, TlsError> {
        let path = |name| self.0.path().join(name);
        let client_ca = Some(path("ca.crt")).filter(|path| path.exists());
        let files = ClientTls::Files { certificate: path("tls.crt"), key: path("tls.key"), client_ca };
        Acceptor::new(&files).map(|acceptor| acceptor.expect("TLS is on"))
    }
}

fn driver(identity: Option<&Identity>) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(crate::tls::verify::Verifier::any(&provider));
    Arc::new(match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
            builder.with_client_auth_cert(vec![certificate.clone()], key).expect("an identity")
        }
    })
}

/// What the server knows of a client after the handshake.
struct Met {
    certificate: Option<CertificateDer<'static>>,
    end_point: Option<Arc<[u8]>>,
    kind: Option<HandshakeKind>,
}

async fn meet(acceptor: &Acceptor, driver: &Arc<ClientConfig>) -> Result<Met, TlsError> {
    let (ours, theirs) = duplex(64 * 1024);
    let connecting = async {
        let name = ServerName::try_from("bastion").expect("a name");
        let mut stream = TlsConnector::from(Arc::clone(driver)).connect(name, theirs).await?;
        // Tickets come with what is read.
        stream.read_u8().await
    };
    let accepting = async {
        let mut accepted = acceptor.accept(ours).await?;
        accepted.stream.write_u8(b'x').await?;
        accepted.stream.flush().await?;
        Ok(Met {
            certificate: client_certificate(&accepted.stream),
            end_point: accepted.end_point,
            kind: accepted.stream.get_ref().1.handshake_kind(),
        })
    };
    tokio::join!(accepting, connecting).0
}

#[tokio::test]
async fn a_client_may_have_a_certificate() {
    let (people, others) = (Authority::new(), Authority::new());
    let folder = Folder::new(Some(&people.pem));
    let acceptor = folder.acceptor().expect("usable");
    let alice = people.client();
    let met = meet(&acceptor, &driver(Some(&alice))).await.expect("a handshake");
    assert_eq!(met.certificate, Some(alice.0));
    let met = meet(&acceptor, &driver(None)).await.expect("a handshake");
    assert_eq!(met.certificate, None);
    let refused = meet(&acceptor, &driver(Some(&others.client()))).await;
    assert!(matches!(refused, Err(TlsError::Handshake(_))));
    // Without a CA nobody asks for one.
    let acceptor = Folder::new(None).acceptor().expect("usable");
    let met = meet(&acceptor, &driver(Some(&others.client()))).await.expect("a handshake");
    assert_eq!(met.certificate, None);
}

/// A CA is replaced while both are in the file, and then the old one goes.
#[tokio::test]
async fn cas_are_rotated() {
    let (old, new) = (Authority::new(), Authority::new());
    let folder = Folder::new(Some(&old.pem));
    let acceptor = folder.acceptor().expect("usable");
    let (alice, bob) = (driver(Some(&old.client())), driver(Some(&new.client())));
    for (file, old_counts, new_counts) in [
        (old.pem.clone(), true, false),
        (format!("{}{}", old.pem, new.pem), true, true),
        (new.pem.clone(), false, true),
        // Broken ones change nothing.
        ("nothing".to_owned(), false, true),
        (new.pem.replace('A', "B"), false, true),
        (old.pem.clone(), true, false),
    ] {
        folder.place("ca.crt", &file);
        assert_eq!(meet(&acceptor, &alice).await.is_ok(), old_counts, "{file}");
        assert_eq!(meet(&acceptor, &bob).await.is_ok(), new_counts, "{file}");
    }
    folder.place("ca.crt", "");
    assert!(matches!(folder.acceptor(), Err(TlsError::Material { .. })));
}

/// What is resumed is not verified again: a certificate that has expired, or whose CA is gone, would go on counting.
#[tokio::test]
async fn nothing_is_resumed_where_certificates_count() {
    let people = Authority::new();
    let alice = people.client();
    for (folder, resumed) in [(Folder::new(Some(&people.pem)), false), (Folder::new(None), true)] {
        let (acceptor, driver) = (folder.acceptor().expect("usable"), driver(Some(&alice)));
        for again in [false, true] {
            let kind = meet(&acceptor, &driver).await.expect("a handshake").kind;
            assert_eq!(kind == Some(HandshakeKind::Resumed), resumed && again, "{kind:?}");
        }
    }
}

#[tokio::test]
async fn the_channel_is_that_of_the_handshake() {
    let folder = Folder::new(None);
    let acceptor = folder.acceptor().expect("usable");
    let before = meet(&acceptor, &driver(None)).await.expect("a handshake").end_point.expect("defined");
    let certificate = folder.place_certificate();
    let after = meet(&acceptor, &driver(None)).await.expect("a handshake").end_point.expect("defined");
    assert_ne!(before, after);
    assert_eq!(Some(after.to_vec()), end_point::hash(&certificate));
}
