//! The contexts of the kubeconfig (or the cluster that we run in), each with one client that is built once, shared,
//! and renewed when the kubeconfig changes, the login ends, or the machine has slept.

use std::{
    collections::{BTreeMap, HashMap},
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
    time::{Instant, sleep},
};
use tracing::debug;

use super::{
    K8sError,
    client::Context,
    clock::{Clock, Mark},
    connector,
    discovery::Discovered,
    fingerprint::Fingerprint,
    kubeconfig::{Sources, Stamp, apply, files, in_cluster, just_changed, read, stamps},
    nearest::nearest,
    plugin::{Asking, EARLY, Plugin, PluginLogin},
};
use crate::upstream::{Identity, Progress};

/// Between two looks at a kubeconfig that is being written.
const WRITTEN: Duration = Duration::from_millis(50);

/// The name of the one context inside a cluster.
const IN_CLUSTER: &str = "in-cluster";

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

/// All contexts.
#[derive(Debug)]
pub struct Contexts {
    params: Arc<ClientParams>,
    clock: Arc<Clock>,
    files: Vec<PathBuf>,
    /// The current context of the first kubeconfig that could be read.
    fixed: Mutex<Option<String>>,
    open: Mutex<HashMap<String, Arc<Shared>>>,
    /// Parsing a large kubeconfig takes longer than all else in a connection.
    names: Mutex<Option<(Vec<Stamp>, Vec<String>)>>,
}

/// One context's part that all identities share.
#[derive(Debug)]
pub(super) struct Shared {
    /// As the person writes it: the short name where there is one.
    pub(super) shown: String,
    /// As the kubeconfig has it.
    real: String,
    pub(super) params: Arc<ClientParams>,
    pub(super) clock: Arc<Clock>,
    files: Vec<PathBuf>,
    current: Mutex<Option<Built>>,
    /// Counts the clusters that the name has meant.
    pub(super) meanings: watch::Sender<u64>,
    /// Held while a login is under way, so that one plugin runs for all who wait.
    login: tokio::sync::Mutex<PluginLogin>,
    /// Which API groups the server has.
    pub(super) discovered: Mutex<Discovered>,
    /// Connections that port-forwards have used up and nothing has replaced yet.
    pub(super) used_up: AtomicUsize,
}

/// A client, and what it was built from.
#[derive(Clone)]
pub(super) struct Built {
    pub(super) client: Client,
    pub(super) server: String,
    /// Whose certificates it may have; where none is named any more, those that were named last.
    authority: Option<Vec<Vec<u8>>>,
    /// Which of the clusters that the context's name has meant this is.
    pub(super) meaning: u64,
    /// What the kubeconfig says about the user.
    user: Fingerprint,
    /// Which of the credentials that the context has had this is.
    pub(super) credential: u64,
    pub(super) namespace: String,
    expires: Option<SystemTime>,
    sources: Sources,
    mark: Mark,
    /// Tells one build from the next.
    pub(super) made: Instant,
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
    expires: Option<SystemTime>,
    sources: Sources,
}

impl Contexts {
    /// Reads nothing yet: a laptop's network, VPN or kubeconfig may come later. To be called inside a runtime.
    #[must_use]
    pub fn new(params: ClientParams) -> Self {
        let files = files(params.kubeconfig.as_ref());
        let fixed = params.context.clone();
        Self {
            params: Arc::new(params),
            clock: Clock::start(),
            files,
            fixed: Mutex::new(fixed),
            open: Mutex::default(),
            names: Mutex::default(),
        }
    }

    /// Whether a context, or a short name of one, is called so.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.params.short_names.contains_key(name) || self.names().iter().any(|known| known == name)
    }

    /// All contexts of the kubeconfig.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let stamps = stamps(&self.files);
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        match names.as_ref() {
            Some((of, names)) if *of == stamps => names.clone(),
            before => {
                let now = self.read_names();
                match before {
                    // A file that is being written holds less for a moment.
                    Some((_, before)) if now.is_empty() && just_changed(&self.files) => before.clone(),
                    _ => names.insert((stamps, now)).1.clone(),
                }
            }
        }
    }

    fn read_names(&self) -> Vec<String> {
        match read(&self.files) {
            Ok(Some(kubeconfig)) => kubeconfig.contexts.into_iter().map(|context| context.name).collect(),
            Ok(None) if in_cluster() => vec![IN_CLUSTER.to_owned()],
            _ => Vec::new(),
        }
    }

    /// The context that an unqualified name means, as the person writes it.
    ///
    /// # Errors
    /// Where no kubeconfig says.
    pub fn default_name(&self) -> Result<String, K8sError> {
        let mut fixed = self.fixed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = fixed.as_ref() {
            return Ok(self.short(name));
        }
        let name = match read(&self.files)? {
            Some(kubeconfig) => {
                kubeconfig.current_context.filter(|name| !name.is_empty()).ok_or(K8sError::NoContext)?
            }
            None if in_cluster() => IN_CLUSTER.to_owned(),
            None => return Err(K8sError::NoKubeconfig),
        };
        Ok(self.short(fixed.insert(name)))
    }

    fn short(&self, name: &str) -> String {
        let short = self.params.short_names.iter().find(|(_, real)| *real == name).map(|(short, _)| short);
        short.map_or_else(|| name.to_owned(), Clone::clone)
    }

    /// The client of a context (`None`: the default one) for an identity.
    ///
    /// # Errors
    /// Where the context is unknown, its kubeconfig unusable, or the login fails.
    pub async fn get(
        &self,
        context: Option<&str>,
        identity: &Identity,
        progress: Option<&Progress>,
    ) -> Result<Context, K8sError> {
        let shared = loop {
            match context
                .map_or_else(|| self.default_name(), |name| Ok(name.to_owned()))
                .and_then(|name| self.shared(&name))
            {
                // As in `build`: one that was just truncated has no contexts.
                Err(K8sError::Kubeconfig(_) | K8sError::NoContext | K8sError::UnknownContext { .. })
                    if just_changed(&self.files) =>
                {
                    debug!(context, "the kubeconfig has no such context; it may still be being written");
                    sleep(WRITTEN).await;
                }
                shared => break shared?,
            }
        };
        let built = shared.ready(progress).await?;
        Ok(Context::new(shared, built, identity.clone()))
    }

    /// Whether a context still means this one of its clusters, and reaches it with this one of its credentials; no where
    /// the kubeconfig has changed and was not read yet.
    #[must_use]
    pub fn still_holds(&self, name: &str, meaning: u64, credential: u64) -> bool {
        self.shared(name).is_ok_and(|shared| {
            let current = shared.current.lock().unwrap_or_else(PoisonError::into_inner);
            current.as_ref().is_some_and(|built| {
                (built.meaning, built.credential) == (meaning, credential) && !built.sources.have_changed()
            })
        })
    }

    fn shared(&self, name: &str) -> Result<Arc<Shared>, K8sError> {
        let real = self.params.short_names.get(name).map_or(name, String::as_str);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = open.get(real) {
            return Ok(Arc::clone(shared));
        }
        let names = self.names();
        if names.is_empty() {
            // Says why there are none.
            read(&self.files)?.ok_or(K8sError::NoKubeconfig)?;
        }
        if !names.iter().any(|known| known == real) {
            let candidates = names.iter().chain(self.params.short_names.keys()).map(String::as_str);
            let nearest = nearest(name, candidates).into_iter().map(str::to_owned).collect();
            return Err(K8sError::UnknownContext { name: name.to_owned(), nearest });
        }
        let shared = Arc::new(Shared {
            shown: self.short(real),
            real: real.to_owned(),
            params: Arc::clone(&self.params),
            clock: Arc::clone(&self.clock),
            files: self.files.clone(),
            current: Mutex::default(),
            meanings: watch::Sender::new(0),
            login: tokio::sync::Mutex::default(),
            discovered: Mutex::default(),
            used_up: AtomicUsize::default(),
        });
        open.insert(real.to_owned(), Arc::clone(&shared));
        Ok(shared)
    }
}

impl Shared {
    /// The current client, renewed where that is due.
    pub(super) async fn ready(&self, progress: Option<&Progress>) -> Result<Built, K8sError> {
        if let Some(built) = self.fresh() {
            return Ok(built);
        }
        if let Some(progress) = progress.filter(|_| self.login.try_lock().is_err()) {
            progress.waiting_for(format!("a login to Kubernetes (context {})", self.shown));
        }
        let asked = Instant::now();
        let mut login = self.login.lock().await;
        // Somebody else may have renewed it while we waited.
        if let Some(built) = self.fresh() {
            return Ok(built);
        }
        // Rare, and too large to be part of every call's future.
        Box::pin(self.build(&mut login, asked, progress)).await
    }

    /// The current client, if it may still be used.
    pub(super) fn fresh(&self) -> Option<Built> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let built = current.as_ref()?;
        let ending = built.expires.is_some_and(|expires| expires < SystemTime::now() + EARLY);
        let stale = ending || built.mark.jumped() || built.sources.have_changed();
        (!stale).then(|| built.clone())
    }

    /// Whether the context means another cluster now than the one of this client.
    pub(super) fn has_left(&self, built: &Built) -> bool {
        *self.meanings.borrow() != built.meaning
    }

    /// A new login after the API server refused the client `refused`; one for all whom it refused.
    pub(super) async fn renew(&self, refused: Instant) -> Result<Built, K8sError> {
        let asked = Instant::now();
        let mut login = self.login.lock().await;
        if let Some(built) = self.fresh().filter(|built| built.made != refused) {
            return Ok(built);
        }
        login.forget();
        Box::pin(self.build(&mut login, asked, None)).await
    }

    /// A new client, for who has waited since `asked`. A kubeconfig that is just being written is waited for.
    async fn build(
        &self,
        login: &mut PluginLogin,
        asked: Instant,
        progress: Option<&Progress>,
    ) -> Result<Built, K8sError> {
        loop {
            match self.build_once(login, asked, progress).await {
                Err(K8sError::Kubeconfig(_)) if just_changed(&self.files) => {
                    debug!(context = self.shown, "the kubeconfig cannot be used; it may still be being written");
                    sleep(WRITTEN).await;
                }
                built => return built,
            }
        }
    }

    async fn build_once(
        &self,
        login: &mut PluginLogin,
        asked: Instant,
        progress: Option<&Progress>,
    ) -> Result<Built, K8sError> {
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
        let mut expires = None;
        if let Some(plugin) = plugin {
            let limit = self.params.exec_timeout;
            let asking = Asking { context: &self.shown, since: asked, limit, progress };
            let credential = login.credential(plugin, asking).await?;
            expires = credential.expires;
            apply(&credential, &mut config.auth_info);
        }
        self.finish(config, Origin { user, expires, sources })
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
        self.finish(config, Origin { user, expires: None, sources: Sources::of(self.files.clone()) })
    }

    fn finish(&self, config: Config, origin: Origin) -> Result<Built, K8sError> {
        let Origin { user, expires, sources } = origin;
        let client = connector::build(&config, self.params.connect_timeout)?;
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
            expires,
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

#[cfg(test)]
#[path = "contexts_tests.rs"]
mod tests;
