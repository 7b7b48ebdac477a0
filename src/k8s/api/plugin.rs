//! A context's login by a credential plugin: what it said last, for as long as that is good, and to whom it was said.

use std::time::{Duration, SystemTime};

use kube::config::{Cluster, ExecConfig, Kubeconfig};
use tokio::time::{Instant, timeout};

use crate::{
    k8s::api::{
        error::K8sError,
        exec::{self, Credential},
        fingerprint::Fingerprint,
        suspend::Clock,
    },
    upstream::Progress,
};

/// A token is renewed this long before it ends: a call under way with it still gets through.
const EARLY: Duration = Duration::from_mins(1);
/// The shortest time that a token is used for, whatever it says of itself: one connect asks three times, and where our
/// clock is ahead of the issuer's each token seems to have ended. One that has is refused with 401, and renewed then.
const LEAST: Duration = Duration::from_secs(10);

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

/// For whom a login is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::k8s) enum For {
    /// Somebody waits for it, who can be asked to log in.
    Client,
    /// Nobody does: a watch, a connection that is kept ready. After a failure it starts no plugin, which may open a
    /// browser each time; a client's success ends that.
    Background,
}

/// Who asks for a credential.
#[derive(Clone, Copy)]
pub(in crate::k8s) struct Asking<'a> {
    /// The context, as the person writes it.
    pub(in crate::k8s) context: &'a str,
    pub(in crate::k8s) wanted: For,
    /// Since when.
    pub(in crate::k8s) since: Instant,
    /// How long the plugin may take.
    pub(in crate::k8s) limit: Duration,
    /// Where to say that it does.
    pub(in crate::k8s) progress: Option<&'a Progress>,
    /// By which a token's end is seen coming.
    pub(in crate::k8s) clock: &'a Clock,
}

/// What a plugin gave, and until when it is used: fixed when it came, or what is due at once would be so at each look.
#[derive(Clone, Debug)]
pub(in crate::k8s) struct Login {
    pub(in crate::k8s) credential: Credential,
    /// `None`: until the API server refuses it.
    pub(in crate::k8s) renew_at: Option<SystemTime>,
}

/// When a token that came now and ends then is renewed: a minute before its end, or, where it has less than two left,
/// after half of that.
fn renew_at(now: SystemTime, expires: SystemTime) -> SystemTime {
    let left = expires.duration_since(now).unwrap_or_default();
    now + left.saturating_sub(EARLY).max(left / 2).max(LEAST)
}

/// What the credential plugin said last, and what it was asked: another command, other arguments or another cluster are
/// another question, and a token for one cluster is never shown to another.
#[derive(Debug, Default)]
pub(in crate::k8s) struct PluginLogin {
    login: Option<(Fingerprint, Login)>,
    failed: Option<(Fingerprint, Instant, K8sError)>,
}

impl PluginLogin {
    /// The API server refuses the credential, or is another. A failure stays everybody's who waited for it.
    pub(in crate::k8s) fn forget(&mut self) {
        self.login = None;
    }

    /// The API server refuses even what has just been given, which is as good as a failure; false where no plugin gave it.
    pub(in crate::k8s) fn refuse(&mut self, error: &K8sError) -> bool {
        let Some((question, _)) = self.login.take() else { return false };
        self.failed = Some((question, Instant::now(), error.clone()));
        true
    }

    /// The plugin's credential: the one it gave last, while that is good. A failure is everybody's who waited for it.
    pub(in crate::k8s) async fn get(&mut self, plugin: Plugin, asking: Asking<'_>) -> Result<Login, K8sError> {
        let Plugin { exec, cluster } = plugin;
        let question = Fingerprint::of(&(&exec, &cluster));
        let now = asking.clock.wall();
        let good = |login: &Login| login.renew_at.is_none_or(|at| now < at);
        if let Some((_, login)) = self.login.as_ref().filter(|(asked, login)| *asked == question && good(login)) {
            return Ok(login.clone());
        }
        let counts = |at: Instant| asking.wanted == For::Background || at >= asking.since;
        if let Some((_, _, error)) = self.failed.as_ref().filter(|(asked, at, _)| *asked == question && counts(*at)) {
            return Err(error.clone());
        }
        let Asking { context, limit, progress, clock, .. } = asking;
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
        let ended = ended.map(|credential| Login {
            renew_at: credential.expires.map(|expires| renew_at(clock.wall(), expires)),
            credential,
        });
        match &ended {
            Ok(login) => {
                self.login = Some((question, login.clone()));
                self.failed = None;
            }
            Err(error) => self.failed = Some((question, Instant::now(), error.clone())),
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_before_its_end_and_never_at_once() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(1_000);
        for (left, used) in [(3600, 3540), (120, 60), (90, 45), (61, 30), (59, 29), (30, 15), (5, 10), (0, 10)] {
            let used_for = renew_at(now, now + Duration::from_secs(left)).duration_since(now).expect("later");
            assert_eq!(used_for.as_secs(), used, "{left} s left");
        }
        assert_eq!(renew_at(now, SystemTime::UNIX_EPOCH), now + LEAST, "long ago by our clock");
    }
}
