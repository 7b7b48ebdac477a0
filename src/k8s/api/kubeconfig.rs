//! The kubeconfig's files: which they are, whether they have changed, and what they hold.

use std::{
    env, fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use kube::config::{AuthInfo, Kubeconfig, KubeconfigError};

use crate::k8s::api::{
    error::{K8sError, innermost},
    exec::Credential,
    http,
};

/// How long ago a file that cannot be used may have changed to be one that is still being written: kubectl and most
/// other tools truncate it, and write.
const WRITING: Duration = Duration::from_secs(1);

/// What changes when a file is replaced or rewritten.
pub(in crate::k8s) type Stamp = Option<(SystemTime, u64)>;

/// The files that a client was made from, as they were before they were read.
#[derive(Clone)]
pub(in crate::k8s) struct Sources {
    files: Vec<PathBuf>,
    stamps: Vec<Stamp>,
}

impl Sources {
    pub(in crate::k8s) fn of(files: Vec<PathBuf>) -> Self {
        Self { stamps: stamps(&files), files }
    }

    /// Those that a context names, too.
    pub(in crate::k8s) fn add_named(&mut self, kubeconfig: &Kubeconfig, context: &str) {
        let named = Self::of(named(kubeconfig, context));
        self.files.extend(named.files);
        self.stamps.extend(named.stamps);
    }

    /// Whether one is not what it was.
    pub(in crate::k8s) fn have_changed(&self) -> bool {
        self.stamps != stamps(&self.files)
    }
}

/// The file that is named, else those of `KUBECONFIG`, else the usual one.
pub(in crate::k8s) fn files(kubeconfig: Option<&PathBuf>) -> Vec<PathBuf> {
    if let Some(file) = kubeconfig {
        return vec![file.clone()];
    }
    if let Some(list) = env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
        return env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect();
    }
    env::home_dir().map(|home| home.join(".kube").join("config")).into_iter().collect()
}

/// The files as they are now.
pub(in crate::k8s) fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let data = fs::metadata(path).ok()?;
        Some((data.modified().ok()?, data.len()))
    };
    files.iter().map(stamp).collect()
}

/// All files merged, as kubectl does; missing ones are left out, and `None` where all are.
pub(in crate::k8s) fn read(files: &[PathBuf]) -> Result<Option<Kubeconfig>, K8sError> {
    let mut merged: Option<Kubeconfig> = None;
    for file in files.iter().filter(|file| file.exists()) {
        let unusable = |error| K8sError::Kubeconfig(format!("{}: {}", file.display(), why(&error)));
        let next = Kubeconfig::read_from(file).map_err(unusable)?;
        merged = Some(match merged {
            Some(merged) => merged.merge(next).map_err(unusable)?,
            None => next,
        });
    }
    Ok(merged)
}

/// The files that a context names: certificates and keys, which are renewed without the kubeconfig. (kube itself reads
/// token files again.)
fn named(kubeconfig: &Kubeconfig, context: &str) -> Vec<PathBuf> {
    let context = kubeconfig.contexts.iter().find(|named| named.name == context);
    let Some(context) = context.and_then(|named| named.context.as_ref()) else { return Vec::new() };
    let cluster = kubeconfig.clusters.iter().find(|named| named.name == context.cluster);
    let user = kubeconfig.auth_infos.iter().find(|named| Some(&named.name) == context.user.as_ref());
    let authority = cluster.and_then(|named| named.cluster.as_ref()?.certificate_authority.as_ref());
    let user = user.and_then(|named| named.auth_info.as_ref());
    let pair = user.into_iter().flat_map(|user| [&user.client_certificate, &user.client_key]).flatten();
    authority.into_iter().chain(pair).map(PathBuf::from).collect()
}

/// Whether this process runs in a pod.
pub(in crate::k8s) fn in_cluster() -> bool {
    env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// Whether a file has changed this very moment.
pub(in crate::k8s) fn just_changed(files: &[PathBuf]) -> bool {
    let changed = stamps(files).into_iter().flatten().map(|(modified, _)| modified);
    changed.filter_map(|modified| modified.elapsed().ok()).any(|age| age < WRITING)
}

/// Why a kubeconfig cannot be used. The parser's own words quote the file, which holds tokens and keys.
fn why(error: &KubeconfigError) -> String {
    if let KubeconfigError::Parse(error) = error {
        return match error.location() {
            Some(at) => format!("no valid kubeconfig (line {}, column {})", at.line(), at.column()),
            None => "no valid kubeconfig".to_owned(),
        };
    }
    innermost(error)
}

/// The user of a kubeconfig with the credential of its plugin.
pub(in crate::k8s) fn apply(credential: &Credential, user: &mut AuthInfo) {
    if let Some(token) = &credential.token {
        user.token = Some(token.clone());
        user.token_file = None;
    }
    if let Some((certificate, key)) = &credential.certificate {
        use secrecy::ExposeSecret;
        let encoded = |pem: &str| http::base64(pem.as_bytes());
        user.client_certificate_data = Some(encoded(certificate));
        user.client_key_data = Some(encoded(key.expose_secret()).into());
        (user.client_certificate, user.client_key) = (None, None);
    }
}
