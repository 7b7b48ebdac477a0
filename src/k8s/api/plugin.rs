//! A context's login by a credential plugin: what it said last, for as long as that is good, and to whom it was said.

use std::time::{Duration, SystemTime};

use kube::config::{Cluster, ExecConfig, Kubeconfig};
use tokio::time::{Instant, timeout};

use crate::{
    k8s::api::{
        error::K8sError,
        exec::{self, Credential},
        fingerprint::Fingerprint,
    },
    upstream::Progress,
};

/// A token is renewed this long before it ends: a call under way with it still gets through.
pub(in crate::k8s) const EARLY: Duration = Duration::from_mins(1);

/// What a kubeconfig says about a context's plugin.
pub(in crate::k8s) struct Plugin {
    exec: ExecConfig,
    cluster: Option<Cluster>,
}

impl Plugin {
    /// Takes it out of the kubeconfig, so that kube does not run it.
    pub(in crate::k8s) fn take(kubeconfig: &mut Kubeconfig, context: &str) -> Option<Self> {
        let context = kubeconfig.contexts.iter().find(|named| named.name == context)?.context.as_ref()?;
        let user = context.user.as_ref()?;
        let cluster = kubeconfig.clusters.iter().find(|cluster| cluster.name == context.cluster);
        let cluster = cluster.and_then(|cluster| cluster.cluster.clone());
        let user = kubeconfig.auth_infos.iter_mut().find(|named| named.name == *user)?;
        let exec = user.auth_info.as_mut()?.exec.take()?;
        Some(Self { exec, cluster })
    }
}

/// Who asks for a credential.
pub(in crate::k8s) struct Asking<'a> {
    /// The context, as the person writes it.
    pub(in crate::k8s) context: &'a str,
    /// Since when.
    pub(in crate::k8s) since: Instant,
    /// How long the plugin may take.
    pub(in crate::k8s) limit: Duration,
    /// Where to say that it does.
    pub(in crate::k8s) progress: Option<&'a Progress>,
}

/// What the credential plugin said last, and what it was asked: another command, other arguments or another cluster are
/// another question, and a token for one cluster is never shown to another.
#[derive(Debug, Default)]
pub(in crate::k8s) struct PluginLogin {
    credential: Option<(Fingerprint, Credential)>,
    failed: Option<(Fingerprint, Instant, K8sError)>,
}

impl PluginLogin {
    /// The API server refuses the credential, or is another. A failure stays everybody's who waited for it.
    pub(in crate::k8s) fn forget(&mut self) {
        self.credential = None;
    }

    /// The plugin's credential: the one it gave last, while that is good. A failure is everybody's who waited for it.
    pub(in crate::k8s) async fn credential(
        &mut self,
        plugin: Plugin,
        asking: Asking<'_>,
    ) -> Result<Credential, K8sError> {
        let Plugin { exec, cluster } = plugin;
        let question = Fingerprint::of(&(&exec, &cluster));
        let good = |credential: &Credential| credential.expires.is_none_or(|end| end > SystemTime::now() + EARLY);
        if let Some((_, credential)) =
            self.credential.as_ref().filter(|(asked, credential)| *asked == question && good(credential))
        {
            return Ok(credential.clone());
        }
        if let Some((_, _, error)) =
            self.failed.as_ref().filter(|(asked, at, _)| *asked == question && *at >= asking.since)
        {
            return Err(error.clone());
        }
        let Asking { context, limit, progress, .. } = asking;
        if let Some(progress) = progress {
            progress.waiting_for(format!("a login to Kubernetes (context {context}) by {}", exec::program(&exec)));
        }
        // On a task of its own: it goes on when the client that asked first leaves, and others wait for it.
        let shown = context.to_owned();
        let run = tokio::spawn(async move { exec::run(&exec, cluster.as_ref(), &shown, limit).await });
        let ended = timeout(limit + EARLY, run).await.ok().and_then(Result::ok).unwrap_or_else(|| {
            Err(K8sError::Plugin {
                context: context.to_owned(),
                command: "the credential plugin".to_owned(),
                why: "did not finish".to_owned(),
                hint: None,
            })
        });
        match &ended {
            Ok(credential) => self.credential = Some((question, credential.clone())),
            Err(error) => self.failed = Some((question, Instant::now(), error.clone())),
        }
        ended
    }
}
