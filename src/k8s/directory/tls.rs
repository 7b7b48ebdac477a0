//! What is known about TLS on a server, out of the system's facts and what the configuration says.

use std::{path::Path, sync::Arc};

use secrecy::SecretString;

use crate::{
    error::{Report, SqlState},
    k8s::{
        api::{
            names::{ObjectName, Reference},
            objects::{ConfigMap, Object, Secret},
            reader::Reader,
            resource::{CONFIG_MAPS, SECRETS},
        },
        cluster::overrides::TlsOverride,
        operators::facts::{CaSource, CertificateName, Facts},
    },
    upstream::{CaBy, ClientIdentity, Failure, TlsFacts, TlsMode},
};

/// Reads what is needed for TLS to one cluster.
pub(in crate::k8s) struct TlsReader<'a> {
    pub(in crate::k8s) reader: Reader<'a>,
    pub(in crate::k8s) configured: Option<&'a TlsOverride>,
    /// Whether nothing but the server's own TLS encrypts.
    pub(in crate::k8s) direct: bool,
}

impl TlsReader<'_> {
    /// How TLS is done to a cluster's server of this name.
    pub(in crate::k8s) async fn read(&self, facts: &Facts, server: &str) -> Result<TlsFacts, Failure> {
        let Self { reader, configured, .. } = *self;
        let mode = configured.and_then(|configured| configured.mode).unwrap_or(facts.tls.mode);
        let mode = if self.direct && mode == TlsMode::Allow { TlsMode::Prefer } else { mode };
        let server_name = self.server_name(facts, server);
        let mut tls = TlsFacts { mode, server_name, ca_pem: None, ca_by: CaBy::Cluster, client_identity: None };
        if let Some(secret) = facts.tls.client.as_ref().filter(|_| mode != TlsMode::Disable) {
            tls.client_identity = Some(client_identity(reader, facts, secret).await?);
        }
        let verified = matches!(mode, TlsMode::VerifyCa | TlsMode::VerifyFull);
        if mode == TlsMode::Disable {
            return Ok(tls);
        }
        if let Some(file) = configured.and_then(|configured| configured.ca_file.as_ref()) {
            (tls.ca_pem, tls.ca_by) = (Some(ca_of_file(facts, file).await?), CaBy::Configuration);
            return Ok(tls);
        }
        // A CA that only the cluster speaks for is of no use where nobody asked for it.
        let worth = |by: &CaBy| verified || *by != CaBy::Cluster;
        for (source, by) in self.authorities(facts).filter(|(_, by)| worth(by)) {
            if let Some(pem) = authority(reader, facts, &source).await? {
                (tls.ca_pem, tls.ca_by) = (Some(pem), by);
                break;
            }
        }
        match &facts.tls.asked {
            Some(asked) if verified && tls.ca_pem.is_none() && mode == facts.tls.mode => {
                Err(no_authority(facts, asked).into())
            }
            _ => Ok(tls),
        }
    }

    /// The name that the server's certificate is to carry, where one is known.
    fn server_name(&self, facts: &Facts, server: &str) -> Option<String> {
        let configured = self.configured.and_then(|configured| configured.server_name.clone());
        configured.or_else(|| match &facts.tls.name {
            Some(CertificateName::Cluster(name)) => Some(name.clone()),
            Some(CertificateName::Pod(suffix)) => Some(format!("{server}{suffix}")),
            None => None,
        })
    }

    /// Where a CA may be, in the order in which it is looked for, and who speaks for it.
    fn authorities<'f>(&self, facts: &'f Facts) -> impl Iterator<Item = (CaSource, CaBy)> + use<'f> {
        let named = self.configured.and_then(|configured| configured.ca_config_map.clone());
        let named = named.map(|(name, key)| {
            // Named by the configuration, and written by whoever may write ConfigMaps there.
            (CaSource::ConfigMap(Reference::new(&name, setting(facts)), key), CaBy::Cluster)
        });
        let known = facts.tls.ca.iter().map(|source| {
            let by = match source {
                CaSource::Own { source, .. } => CaBy::Secret(source.clone()),
                _ => CaBy::Cluster,
            };
            (source.clone(), by)
        });
        named.into_iter().chain(known)
    }
}

/// What the configuration calls a cluster's CA.
fn setting(facts: &Facts) -> String {
    format!("clusters.\"{}\".sslrootcert", facts.full())
}

async fn ca_of_file(facts: &Facts, file: &Path) -> Result<Arc<[u8]>, Failure> {
    let read = tokio::fs::read(file).await;
    read.map(Arc::from).map_err(|error| {
        let message = format!("the CA file {} cannot be read: {}", file.display(), error.kind());
        let hint = format!("Correct {} in the configuration", setting(facts));
        Report::fatal(SqlState::CONFIG_FILE_ERROR, message).hint(hint).into()
    })
}

/// An object asks for a certificate that is verified, and its author had the CA in a file.
fn no_authority(facts: &Facts, asked: &str) -> Report {
    let mode = if facts.tls.mode == TlsMode::VerifyFull { "verify-full" } else { "verify-ca" };
    let message = format!(
        "cluster {}: {asked} asks for sslmode={mode}, and no CA is known: a file that its author's container has is not \
         here",
        facts.full()
    );
    Report::fatal(SqlState::UNABLE_TO_CONNECT, message).hint(format!(
        "Write in the configuration: clusters.\"{0}\".sslrootcert = \"FILE\", or clusters.\"{0}\".sslmode = \
         \"require\"; or put the CA itself into that Secret, as the key ca.crt",
        facts.full()
    ))
}

/// A CA, where it is to be had: one that may not be read is looked for elsewhere.
async fn authority(reader: Reader<'_>, facts: &Facts, source: &CaSource) -> Result<Option<Arc<[u8]>>, Failure> {
    let namespace = &facts.namespace;
    Ok(match source {
        CaSource::Own { pem, .. } => Some(Arc::clone(pem)),
        CaSource::Secret(name, key) => {
            let name = named(facts, name)?;
            let secret = reader.get_if_allowed::<Secret>(&SECRETS, (namespace, name)).await?;
            secret.and_then(|secret| secret.data.get(key).map(Arc::from))
        }
        CaSource::ConfigMap(name, key) => {
            let name = named(facts, name)?;
            let map = reader.get_if_allowed::<ConfigMap>(&CONFIG_MAPS, (namespace, name)).await?;
            map.and_then(|mut map| map.data.remove(key)).map(|pem| Arc::from(pem.into_bytes()))
        }
        CaSource::Object(resource, name, pointer) => {
            let object = reader.get_if_allowed::<Object>(resource, (namespace, name)).await?;
            let encoded = object.as_ref().and_then(|object| object.spec.pointer(pointer)).cloned().unwrap_or_default();
            let pem = serde_json::from_value::<k8s_openapi::ByteString>(encoded).ok();
            pem.map(|pem| pem.0).filter(|pem| !pem.is_empty()).map(Arc::from)
        }
    })
}

/// The name of an object about TLS; what is none leads nowhere.
fn named<'r>(facts: &Facts, reference: &'r Reference) -> Result<&'r ObjectName, Failure> {
    reference.name().map_err(|why| {
        let message = format!("the certificates of {}/{} cannot be looked for: {why}", facts.namespace, facts.object);
        let report = Report::fatal(SqlState::INVALID_AUTHORIZATION, message);
        report.hint("Whoever may write that object wrote this: correct it, and connect again").into()
    })
}

/// The certificate that a server wants of its clients.
async fn client_identity(reader: Reader<'_>, facts: &Facts, secret: &Reference) -> Result<ClientIdentity, Failure> {
    let secret = named(facts, secret)?;
    let found = reader.get_secret((&facts.namespace, secret)).await?;
    let missing = |what: &str| {
        let place = format!("Secret {}/{secret}", facts.namespace);
        Report::fatal(
            SqlState::INVALID_AUTHORIZATION,
            format!("{place}, with the certificate that cluster {} wants of its clients, {what}", facts.full()),
        )
        .hint(format!("See which there are: kubectl get secrets -n {}", facts.namespace))
    };
    let found = found.ok_or_else(|| missing("does not exist"))?;
    let part = |key: &str| found.data.get(key).ok_or_else(|| missing(&format!("has no key \"{key}\"")));
    let key = std::str::from_utf8(part("tls.key")?).map_err(|_| missing("has a \"tls.key\" that is no text"))?;
    Ok(ClientIdentity { certificate_pem: Arc::from(part("tls.crt")?), key_pem: SecretString::from(key) })
}
