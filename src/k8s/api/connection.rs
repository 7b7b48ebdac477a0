//! One context's connection to its API server: a client that is built once, shared, and renewed when the kubeconfig
//! changes, the login ends, or the machine has slept.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicUsize},
    time::{Duration, SystemTime},
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::debug;

use crate::{
    k8s::api::{
        error::K8sError,
        fingerprint::Fingerprint,
        http,
        kubeconfig::{Sources, apply, in_cluster, just_changed, read},
        plugin::{Asking, For, Plugin, PluginLogin},
        suspend::{Clock, Mark},
        throttle::Throttle,
    },
    upstream::Progress,
};

/// Between two looks at a kubeconfig that is being written.
pub(in crate::k8s) const WRITTEN: Duration = Duration::from_millis(50);

/// The settings of clients.
#[derive(Clone, Debug)]
pub struct ClientParams {
    /// The kubeconfig; else `KUBECONFIG`, else `~/.kube/config`, else the cluster that we run in.
    pub kubeconfig: Option<PathBuf>,
    /// The default context; else the one that is current at the first look, and stays it.
    pub context: Option<String>,
    /// The namespace in force; else the context's.
    pub namespace: Option<String>,
    /// Short name to context.
    pub short_names: BTreeMap<String, String>,
    /// One call.
    pub request_timeout: Duration,
    /// One TCP connection.
    pub connect_timeout: Duration,
    /// One run of a credential plugin; a person may have to log in meanwhile.
    pub exec_timeout: Duration,
}

/// Groups and their versions.
pub(in crate::k8s) type Groups = BTreeMap<String, Vec<String>>;

/// What was found, and when.
pub(in crate::k8s) type Discovered = Option<(Instant, Arc<Groups>)>;

/// One context's part that all identities share.
#[derive(Debug)]
pub(in crate::k8s) struct Shared {
    /// As the person writes it: the short name where there is one.
    pub(in crate::k8s) shown: String,
    /// As the kubeconfig has it.
    real: String,
    pub(in crate::k8s) params: Arc<ClientParams>,
    pub(in crate::k8s) clock: Arc<Clock>,
    files: Vec<PathBuf>,
    pub(in crate::k8s) current: Mutex<Option<Built>>,
    /// Counts the clusters that the name has meant.
    pub(in crate::k8s) meanings: watch::Sender<u64>,
    /// Held while a login is under way, so that one plugin runs for all who wait.
    login: tokio::sync::Mutex<PluginLogin>,
    /// Whether the last login by a plugin failed.
    failing: watch::Sender<bool>,
    /// Which API groups the server has.
    pub(in crate::k8s) discovered: Mutex<Discovered>,
    /// Connections that port-forwards have used up and nothing has replaced yet.
    pub(in crate::k8s) used_up: AtomicUsize,
    pub(in crate::k8s) throttle: Throttle,
}

/// A client, and what it was built from.
#[derive(Clone)]
pub(in crate::k8s) struct Built {
    pub(in crate::k8s) client: Client,
    pub(in crate::k8s) server: String,
    /// Whose certificates it may have; where none is named any more, those that were named last.
    authority: Option<Vec<Vec<u8>>>,
    /// Which of the clusters that the context's name has meant this is.
    pub(in crate::k8s) meaning: u64,
    /// What the kubeconfig says about the user.
    user: Fingerprint,
    /// Which of the credentials that the context has had this is.
    pub(in crate::k8s) credential: u64,
    pub(in crate::k8s) namespace: String,
    /// When its login is due anew.
    renew_at: Option<SystemTime>,
    pub(in crate::k8s) sources: Sources,
    mark: Mark,
    /// Tells one build from the next.
    pub(in crate::k8s) made: Instant,
}

impl std::fmt::Debug for Built {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Built").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Built {
    /// Whether a kubeconfig with this server and these authorities means another cluster. While a CA is replaced both
    /// are named, and who does not verify names none.
    fn is_other(&self, server: &str, authority: Option<&[Vec<u8>]>) -> bool {
        let common = match (&self.authority, authority) {
            (Some(before), Some(now)) => now.iter().any(|certificate| before.contains(certificate)),
            _ => true,
        };
        self.server != server || !common
    }
}

/// What a client is made from besides its configuration.
struct Origin {
    user: Fingerprint,
    renew_at: Option<SystemTime>,
    sources: Sources,
}

impl Shared {
    /// Nothing is read or asked yet. The context's name comes as the person writes it, and as the kubeconfig has it.
    pub(in crate::k8s) fn new(
        (shown, real): (String, &str),
        (params, clock, files): (Arc<ClientParams>, Arc<Clock>, Vec<PathBuf>),
    ) -> Self {
        Self {
            shown,
            real: real.to_owned(),
            params,
            clock,
            files,
            current: Mutex::default(),
            meanings: watch::Sender::new(0),
            login: tokio::sync::Mutex::default(),
            failing: watch::Sender::new(false),
            discovered: Mutex::default(),
            used_up: AtomicUsize::default(),
            throttle: Throttle::default(),
        }
    }

    /// The current client, renewed where that is due.
    pub(in crate::k8s) async fn ready(&self, wanted: For, progress: Option<&Progress>) -> Result<Built, K8sError> {
        if let Some(built) = self.fresh() {
            return Ok(built);
        }
        let asking = self.asking(wanted, progress);
        let mut login = if let Ok(login) = self.login.try_lock() {
            login
        } else {
            if let Some(progress) = progress {
                progress.waiting_for(format!("a login to Kubernetes (context {})", self.shown));
            }
            self.login.lock().await
        };
        // Somebody else may have renewed it while we waited.
        if let Some(built) = self.fresh() {
            return Ok(built);
        }
        // Rare, and too large to be part of every call's future.
        Box::pin(self.build(&mut login, asking)).await
    }

    fn asking<'a>(&'a self, wanted: For, progress: Option<&'a Progress>) -> Asking<'a> {
        let limit = self.params.exec_timeout;
        Asking { context: &self.shown, wanted, since: Instant::now(), limit, progress, clock: &self.clock }
    }

    /// The current client, if it may still be used.
    pub(in crate::k8s) fn fresh(&self) -> Option<Built> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let built = current.as_ref()?;
        let ending = built.renew_at.is_some_and(|at| at <= self.clock.wall());
        let stale = ending || built.mark.jumped() || built.sources.have_changed();
        (!stale).then(|| built.clone())
    }

    /// Whether the context means another cluster now than the one of this client.
    pub(in crate::k8s) fn has_left(&self, built: &Built) -> bool {
        *self.meanings.borrow() != built.meaning
    }

    /// A new login after the API server refused the client `refused`; one for all whom it refused.
    pub(in crate::k8s) async fn renew(&self, refused: Instant, wanted: For) -> Result<Built, K8sError> {
        let asking = self.asking(wanted, None);
        let mut login = self.login.lock().await;
        if let Some(built) = self.fresh().filter(|built| built.made != refused) {
            return Ok(built);
        }
        login.forget();
        Box::pin(self.build(&mut login, asking)).await
    }

    /// The API server refused the client `refused` too, whose login had just been renewed.
    pub(in crate::k8s) fn give_up(&self, refused: Instant, error: &K8sError) {
        // Somebody who is at it now finds out by himself.
        let Ok(mut login) = self.login.try_lock() else { return };
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|built| built.made == refused) && login.refuse(error) {
            self.failing.send_replace(true);
        }
    }

    /// Waits so long after an error; where a plugin's failure is the reason, until a client has logged in at the most.
    pub(in crate::k8s) async fn rest(&self, error: &K8sError, pause: Duration) {
        let mut failing = self.failing.subscribe();
        if matches!(error, K8sError::Plugin { .. }) || *failing.borrow() {
            let _ = timeout(pause, failing.wait_for(|failing| !failing)).await;
        } else {
            sleep(pause).await;
        }
    }

    /// A new client, for who asks. A kubeconfig that is just being written is waited for.
    async fn build(&self, login: &mut PluginLogin, asking: Asking<'_>) -> Result<Built, K8sError> {
        loop {
            match self.build_once(login, asking).await {
                Err(K8sError::Kubeconfig(_)) if just_changed(&self.files) => {
                    debug!(context = self.shown, "the kubeconfig cannot be used; it may still be being written");
                    sleep(WRITTEN).await;
                }
                built => return built,
            }
        }
    }

    async fn build_once(&self, login: &mut PluginLogin, asking: Asking<'_>) -> Result<Built, K8sError> {
        let mut sources = Sources::of(self.files.clone());
        let Some(mut kubeconfig) = read(&self.files)? else { return self.build_in_cluster() };
        sources.add_named(&kubeconfig, &self.real);
        let user = user(&kubeconfig, &self.real);
        let plugin = Plugin::take(&mut kubeconfig, &self.real);
        let options = KubeConfigOptions { context: Some(self.real.clone()), ..KubeConfigOptions::default() };
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .map_err(|error| K8sError::Kubeconfig(error.to_string()))?;
        if self.means_another(&config) {
            login.forget();
        }
        let mut renew_at = None;
        if let Some(plugin) = plugin {
            let login = login.get(plugin, asking).await;
            self.failing.send_replace(login.is_err());
            let login = login?;
            renew_at = login.renew_at;
            apply(&login.credential, &mut config.auth_info);
        }
        self.finish(config, Origin { user, renew_at, sources })
    }

    /// Whether a configuration leads to another cluster than the client that we have.
    fn means_another(&self, config: &Config) -> bool {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().is_some_and(|before| before.is_other(&address(config), authority(config)))
    }

    fn build_in_cluster(&self) -> Result<Built, K8sError> {
        if !in_cluster() {
            return Err(K8sError::NoKubeconfig);
        }
        let config = Config::incluster().map_err(|error| K8sError::Kubeconfig(error.to_string()))?;
        // Who we are there is the pod's business, and stays.
        let user = Fingerprint::of(&());
        self.finish(config, Origin { user, renew_at: None, sources: Sources::of(self.files.clone()) })
    }

    fn finish(&self, config: Config, origin: Origin) -> Result<Built, K8sError> {
        let Origin { user, renew_at, sources } = origin;
        let client = http::build(&config, self.params.connect_timeout)?;
        let server = address(&config);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let mut authority = authority(&config).map(<[_]>::to_vec);
        match current.as_ref() {
            Some(before) if before.is_other(&server, authority.as_deref()) => {
                debug!(context = self.shown, server, "the context is another cluster now");
                *self.discovered.lock().unwrap_or_else(PoisonError::into_inner) = None;
                // Ends the watches of this context; no other's are concerned.
                self.meanings.send_modify(|meanings| *meanings += 1);
            }
            Some(before) => authority = authority.or_else(|| before.authority.clone()),
            None => {}
        }
        let meaning = *self.meanings.borrow();
        let credential = match current.as_ref() {
            Some(before) if before.meaning == meaning && before.user == user => before.credential,
            Some(before) => before.credential + 1,
            None => 0,
        };
        let built = Built {
            client,
            server,
            authority,
            meaning,
            user,
            credential,
            namespace: self.params.namespace.clone().unwrap_or(config.default_namespace),
            renew_at,
            sources,
            mark: self.clock.mark(),
            made: Instant::now(),
        };
        debug!(context = self.shown, server = built.server, "made a client");
        *current = Some(built.clone());
        Ok(built)
    }
}

/// The API server's address.
fn address(config: &Config) -> String {
    config.cluster_url.to_string().trim_end_matches('/').to_owned()
}

/// Whose certificates the API server may have, where that is said.
fn authority(config: &Config) -> Option<&[Vec<u8>]> {
    config.root_cert.as_deref().filter(|certificates| !certificates.is_empty())
}

/// What a kubeconfig says about a context's user, its plugin included.
fn user(kubeconfig: &Kubeconfig, context: &str) -> Fingerprint {
    let context = kubeconfig.contexts.iter().find(|named| named.name == context);
    let name = context.and_then(|named| named.context.as_ref()?.user.as_ref());
    let user = kubeconfig.auth_infos.iter().find(|named| Some(&named.name) == name);
    Fingerprint::of(&user.and_then(|named| named.auth_info.as_ref()))
}
