//! Finding clusters by name, and the pod of one that serves: the seam's `Directory`.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use secrecy::SecretString;
use tokio::{sync::watch, time::Instant};

use super::{
    K8sError,
    choose::{Choice, Preference, View},
    client::Context,
    contexts::Contexts,
    lookup::Lookup,
    names::{self, Namespace, ObjectName, Place, Reference},
    objects::{ConfigMap, Meta, Object, Secret},
    operators::{
        CONFIG_MAPS, CaSource, CertificateName, Facts, Keys, LoginKind, LoginSource, Members, POSTGRES, SECRETS,
        System, Systems, SystemsParams,
    },
    reads,
    watches::{WatchParams, Watches},
};
use crate::{
    error::{Report, SqlState},
    upstream::{
        Ask, AuthFacts, AuthMethod, CaBy, ClientIdentity, ClusterId, Directory, Failure, Identity, ListAsk, Listing,
        Login, Lost, Mode, PodId, Retry, Server, TlsFacts, TlsMode, Upstream,
    },
};

/// Between two looks at a cluster without a primary, where no watch tells.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What the configuration says about TLS to one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOverride {
    /// The mode; `None` leaves it to the system's facts.
    pub mode: Option<TlsMode>,
    /// A PEM file with the CA.
    pub ca_file: Option<PathBuf>,
    /// A ConfigMap in the cluster's namespace with the CA, and its key.
    pub ca_config_map: Option<(String, String)>,
    /// The name that the server's certificate carries.
    pub server_name: Option<String>,
}

/// What the configuration says about one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterParams {
    /// TLS to it.
    pub tls: TlsOverride,
    /// The weakest way in which it may ask for a password; `None` leaves it to the system's facts.
    pub auth: Option<AuthMethod>,
    /// The Secret with its default login, in its namespace.
    pub secret: Option<String>,
    /// The most rounds of SCRAM that it may ask for.
    pub scram_iterations: Option<u32>,
}

/// Which servers outside Kubernetes may be dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum External {
    /// Any that a connection Secret names.
    Any,
    /// These hosts and ports.
    Only(Vec<(String, u16)>),
}

impl Default for External {
    fn default() -> Self {
        Self::Only(Vec::new())
    }
}

/// The settings of the directory.
#[derive(Clone, Debug, Default)]
pub struct DirectoryParams {
    /// By `cluster.namespace`, or by `cluster` alone.
    pub clusters: BTreeMap<String, ClusterParams>,
    /// How clusters in use are watched.
    pub watches: WatchParams,
    /// What the configuration says about systems.
    pub systems: SystemsParams,
    /// Which servers outside Kubernetes may be dialled.
    pub external: External,
    /// Whether pods are dialled at their addresses, so that nothing but the server's own TLS encrypts.
    pub direct: bool,
}

/// On whose behalf something was read, of which of the clusters that a context's name has meant, and with which of its
/// credentials: what one may see another may not, so that whatever is remembered is remembered for one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Caller {
    pub(super) identity: Identity,
    pub(super) meaning: u64,
    pub(super) credential: u64,
}

impl Caller {
    pub(super) fn of(context: &Context) -> Self {
        Self { identity: context.identity().clone(), meaning: context.meaning(), credential: context.credential() }
    }
}

/// Where a name led last, and when it was looked up; believed while a watch confirms it, or for a moment.
type Known = HashMap<KnownKey, (Place, System, Instant)>;

/// Who asked, in which context, for which name, and of which system.
type KnownKey = (Caller, String, String, Option<String>);

fn known_key(ask: &Ask, context: &Context) -> KnownKey {
    (Caller::of(context), context.name().to_owned(), ask.target.name.clone(), ask.target.system.clone())
}

/// How long a name that no watch confirms need not be looked up anew: whoever opens one connection opens more.
const MOMENT: Duration = Duration::from_secs(30);

/// Kubernetes, as the seam sees it.
#[derive(Debug)]
pub struct Kubernetes {
    pub(super) contexts: Arc<Contexts>,
    pub(super) systems: Arc<Systems>,
    pub(super) watches: Watches,
    params: DirectoryParams,
    known: Mutex<Known>,
    /// What is known of each cluster that was resolved, for its login.
    pub(super) seen: Mutex<HashMap<(Caller, ClusterId), Arc<View>>>,
    pub(super) refusals: super::credentials::Refusals,
    pub(super) readings: super::readings::Readings,
    /// The last login that a server took, for the moment between a new Secret and the server that knows it.
    pub(super) worked: Mutex<HashMap<super::credentials::WorkedKey, Login>>,
    turn: AtomicUsize,
    /// Which pod was the primary the last time, of clusters where only the servers know.
    asked: Mutex<HashMap<(Caller, ClusterId), String>>,
    warmed: Mutex<Option<Instant>>,
}

impl Kubernetes {
    /// Over these contexts.
    #[must_use]
    pub fn new(contexts: Arc<Contexts>, params: DirectoryParams) -> Self {
        let systems = Arc::new(Systems::new(&params.systems));
        Self {
            watches: Watches::new(Arc::clone(&contexts), Arc::clone(&systems), params.watches),
            systems,
            contexts,
            params,
            known: Mutex::default(),
            seen: Mutex::default(),
            refusals: super::credentials::Refusals::default(),
            readings: super::readings::Readings::default(),
            worked: Mutex::default(),
            turn: AtomicUsize::new(0),
            asked: Mutex::default(),
            warmed: Mutex::default(),
        }
    }

    /// The cluster that a name means, as a running watch knows it: no request.
    fn remembered(&self, ask: &Ask, context: &Context) -> Option<View> {
        let (place, system, _) =
            self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&known_key(ask, context)).cloned()?;
        self.watches.view(&place, context, &system)
    }

    /// The same, of a cluster that is not watched: its own objects, and nobody else's.
    async fn read_again(&self, ask: &Ask, context: &Context) -> Result<Option<View>, Failure> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&known_key(ask, context)).cloned();
        let known = known
            .filter(|(place, system, at)| at.elapsed() < MOMENT && !self.watches.is_watched(place, context, system));
        let Some((place, system, _)) = known else {
            return Ok(None);
        };
        match reads::view(context, &self.systems, &system, (&place.0, &place.1), ask.deadline).await {
            // Whatever has changed, the name is looked up anew.
            Err(error) if error.is_forbidden() || error.is_absent() => Ok(None),
            view => Ok(view?),
        }
    }

    fn remember(&self, ask: &Ask, context: &Context, view: &View) {
        let value = (view.place(), view.system.clone(), Instant::now());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        tidy(&mut known);
        known.insert(known_key(ask, context), value);
    }

    /// Looks until the cluster has a server for the ask, or `wait_until` has passed. `stale` has just said that it is
    /// not the one.
    async fn settle(&self, ask: &Ask, context: &Context, view: View, stale: Option<&str>) -> Result<Upstream, Failure> {
        let (id, place) = (view.id(context.name()), view.place());
        let system = view.system.clone();
        let mode = ask.target.mode;
        let asked_key = (Caller::of(context), id.clone());
        let mut view = view;
        loop {
            if let Members::External { host, port } = &view.facts.members
                && view.facts.broken.is_none()
            {
                return self.external(ask, context, &view, (host, *port)).await;
            }
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let before = self.asked.lock().unwrap_or_else(PoisonError::into_inner).get(&asked_key).cloned();
            let report = match view.choose(mode, Preference { turn, last: before.as_deref(), avoid: stale }) {
                Choice::Pod(pod) => {
                    let pod = pod.clone();
                    if mode == Mode::Rw && stale.is_some() {
                        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
                        tidy(&mut asked);
                        asked.insert(asked_key, pod.metadata.name.to_string());
                    }
                    let lost = self.watches.guard(context, &view, (&pod, mode));
                    let tls = self.tls(context, &view.facts, &pod.metadata.name, ask.deadline).await?;
                    let port = view.port(&pod);
                    let Meta { namespace, name, uid, .. } = pod.metadata;
                    let pod = PodId { namespace: namespace.to_string(), name: name.to_string(), uid };
                    return Ok(self.upstream((ask, context), view, (Server::Pod(pod), port), (tls, lost)));
                }
                Choice::Never(report) => return Err(report.into()),
                Choice::Wait(report) => report,
            };
            if Instant::now() >= ask.wait_until {
                return Err(report.into());
            }
            let what = if mode == Mode::Ro { "a ready replica" } else { "a ready primary" };
            ask.progress.waiting_for(format!("{what} of {id}"));
            let longest = LOOK_AGAIN.min(ask.wait_until.saturating_duration_since(Instant::now()));
            self.watches.changed(&place, context, &system, longest).await;
            view = match self.watches.view(&place, context, &system) {
                Some(view) => view,
                None => reads::view(context, &self.systems, &system, (&place.0, &place.1), ask.deadline)
                    .await?
                    .ok_or_else(|| Failure::from(vanished(&id)))?,
            };
        }
    }

    /// A server that was chosen; what is known of its cluster is kept for the login.
    fn upstream(
        &self,
        (ask, context): (&Ask, &Context),
        view: View,
        (server, port): (Server, u16),
        (tls, lost): (TlsFacts, watch::Receiver<Option<Lost>>),
    ) -> Upstream {
        let id = view.id(context.name());
        let upstream = Upstream {
            cluster: id.clone(),
            meaning: context.meaning(),
            credential: context.credential(),
            system: view.system.system().into(),
            server,
            port,
            mode: ask.target.mode,
            standby_cluster: view.is_standby(),
            pooled: view.facts.pooled,
            tls,
            auth: self.auth(ask, context, &view.facts),
            lost,
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        tidy(&mut seen);
        seen.insert((Caller::of(context), id), Arc::new(self.with_configured_secret(ask, context, view)));
        upstream
    }

    /// What the configuration says about a cluster.
    fn configured(&self, facts: &Facts) -> Option<&ClusterParams> {
        self.params.clusters.get(&facts.full()).or_else(|| self.params.clusters.get(&*facts.name))
    }

    /// What it says about passwords. A name without a namespace means there what it means where somebody types it: anybody
    /// may call a cluster in a namespace of their own so.
    fn trusted(&self, ask: &Ask, context: &Context, facts: &Facts) -> Option<&ClusterParams> {
        let is_meant = facts.namespace == context.namespace() || facts.name == *ask.target.name;
        let by_name = || self.params.clusters.get(&*facts.name).filter(|_| is_meant);
        self.params.clusters.get(&facts.full()).or_else(by_name)
    }

    /// How the servers may ask for a password: as the configuration says, else as the system does.
    fn auth(&self, ask: &Ask, context: &Context, facts: &Facts) -> AuthFacts {
        let configured = self.trusted(ask, context, facts);
        let usual = if facts.md5 { AuthMethod::Md5 } else { AuthMethod::ScramSha256 };
        // To ask for more than is usual is everybody's who is called so.
        let strictest =
            self.configured(facts).and_then(|configured| configured.auth).map_or(usual, |auth| auth.min(usual));
        AuthFacts {
            weakest: configured.and_then(|configured| configured.auth).unwrap_or(strictest),
            scram_iterations: configured
                .and_then(|configured| configured.scram_iterations)
                .unwrap_or(AuthFacts::MOST_ITERATIONS),
        }
    }

    /// The Secret that the configuration names has the default login, and needs nobody's consent.
    pub(super) fn with_configured_secret(&self, ask: &Ask, context: &Context, mut view: View) -> View {
        let facts = &mut view.facts;
        if let Some(secret) = self.trusted(ask, context, facts).and_then(|configured| configured.secret.as_deref()) {
            let secret = Reference::new(secret, format!("clusters.\"{}\".secret", facts.full()));
            let database = facts.logins.first().map_or(POSTGRES, |login| login.database.as_str());
            let login = LoginSource::new(LoginKind::Application, None, Some(secret), Keys::Connection, database);
            facts.logins.retain(|known| known.secret != login.secret);
            facts.logins.insert(0, login);
        }
        view
    }

    /// A server outside Kubernetes.
    async fn external(
        &self,
        ask: &Ask,
        context: &Context,
        view: &View,
        (host, port): (&str, u16),
    ) -> Result<Upstream, Failure> {
        let id = view.id(context.name());
        let allowed = match &self.params.external {
            External::Any => true,
            External::Only(servers) => servers.iter().any(|(name, at)| name.eq_ignore_ascii_case(host) && *at == port),
        };
        if !allowed {
            return Err(Report::fatal(
                SqlState::INSUFFICIENT_PRIVILEGE,
                format!("{id} is outside Kubernetes, at {host}:{port}, and pgferry is not to connect there"),
            )
            .hint(format!(
                "To let it connect there directly: kubernetes.external = [\"{host}:{port}\"] \
                 (PGFERRY__KUBERNETES__EXTERNAL={host}:{port}), or true for any server that a Secret names"
            ))
            .into());
        }
        // The way leads through the open: never plaintext unless the Secret says so, and verified where that can be.
        let mut facts = view.facts.clone();
        facts.tls.name = Some(CertificateName::Cluster(host.to_owned()));
        if facts.tls.mode == TlsMode::Allow {
            facts.tls.mode = if facts.tls.ca.is_empty() { TlsMode::Require } else { TlsMode::VerifyCa };
        }
        let tls = self.tls(context, &facts, host, ask.deadline).await?;
        let server = Server::External { host: host.to_owned() };
        let never = watch::Sender::new(None).subscribe();
        Ok(self.upstream((ask, context), view.clone(), (server, port), (tls, never)))
    }

    /// The system's facts, and what the configuration says.
    async fn tls(
        &self,
        context: &Context,
        facts: &Facts,
        server: &str,
        deadline: Instant,
    ) -> Result<TlsFacts, Failure> {
        let full = facts.full();
        let configured = self.configured(facts).map(|configured| &configured.tls);
        let mode = configured.and_then(|configured| configured.mode).unwrap_or(facts.tls.mode);
        let mode = if self.params.direct && mode == TlsMode::Allow { TlsMode::Prefer } else { mode };
        let server_name = configured.and_then(|configured| configured.server_name.clone());
        let server_name = server_name.or_else(|| match &facts.tls.name {
            Some(CertificateName::Cluster(name)) => Some(name.clone()),
            Some(CertificateName::Pod(suffix)) => Some(format!("{server}{suffix}")),
            None => None,
        });
        let mut tls = TlsFacts { mode, server_name, ca_pem: None, ca_by: CaBy::Cluster, client_identity: None };
        if let Some(secret) = facts.tls.client.as_ref().filter(|_| mode != TlsMode::Disable) {
            tls.client_identity = Some(client_identity(context, facts, secret, deadline).await?);
        }
        let verified = matches!(mode, TlsMode::VerifyCa | TlsMode::VerifyFull);
        if mode == TlsMode::Disable {
            return Ok(tls);
        }
        if let Some(file) = configured.and_then(|configured| configured.ca_file.as_ref()) {
            let pem = tokio::fs::read(file).await.map_err(|error| {
                Failure::from(
                    Report::fatal(
                        SqlState::CONFIG_FILE_ERROR,
                        format!("the CA file {} cannot be read: {}", file.display(), error.kind()),
                    )
                    .hint(format!("Correct clusters.\"{full}\".sslrootcert in the configuration")),
                )
            })?;
            (tls.ca_pem, tls.ca_by) = (Some(pem.into()), CaBy::Configuration);
            return Ok(tls);
        }
        let named = configured.and_then(|configured| configured.ca_config_map.clone());
        let named = named.map(|(name, key)| {
            let field = format!("clusters.\"{full}\".sslrootcert");
            (CaSource::ConfigMap(Reference::new(&name, field), key), CaBy::Configuration)
        });
        let known = facts.tls.ca.iter().map(|source| {
            let by = match source {
                CaSource::Own { source, .. } => CaBy::Secret(source.clone()),
                _ => CaBy::Cluster,
            };
            (source.clone(), by)
        });
        // A CA that only the cluster speaks for is of no use where nobody asked for it.
        let worth = named.into_iter().chain(known).filter(|(_, by)| verified || *by != CaBy::Cluster);
        for (source, by) in worth {
            if let Some(pem) = authority(context, facts, &source, deadline).await? {
                (tls.ca_pem, tls.ca_by) = (Some(pem), by);
                break;
            }
        }
        Ok(tls)
    }
}

/// What is only remembered to save a look may be forgotten.
pub(super) fn tidy<K, V>(remembered: &mut HashMap<K, V>) {
    /// More clusters than anybody uses at a time.
    const MOST: usize = 4096;
    if remembered.len() >= MOST {
        remembered.clear();
    }
}

/// A CA, where it is to be had: one that may not be read is looked for elsewhere.
async fn authority(
    context: &Context,
    facts: &Facts,
    source: &CaSource,
    deadline: Instant,
) -> Result<Option<Arc<[u8]>>, Failure> {
    let namespace = &facts.namespace;
    Ok(match source {
        CaSource::Own { pem, .. } => Some(Arc::clone(pem)),
        CaSource::Secret(name, key) => {
            let name = named(facts, name)?;
            let secret = reads::get_if_allowed::<Secret>(context, &SECRETS, (namespace, name), deadline).await?;
            secret.and_then(|secret| secret.data.get(key).map(Arc::from))
        }
        CaSource::ConfigMap(name, key) => {
            let name = named(facts, name)?;
            let map = reads::get_if_allowed::<ConfigMap>(context, &CONFIG_MAPS, (namespace, name), deadline).await?;
            map.and_then(|mut map| map.data.remove(key)).map(|pem| Arc::from(pem.into_bytes()))
        }
        CaSource::Object(resource, name, pointer) => {
            let object = reads::get_if_allowed::<Object>(context, resource, (namespace, name), deadline).await?;
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
async fn client_identity(
    context: &Context,
    facts: &Facts,
    secret: &Reference,
    deadline: Instant,
) -> Result<ClientIdentity, Failure> {
    let secret = named(facts, secret)?;
    let found = reads::get_secret(context, (&facts.namespace, secret), deadline).await?;
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

fn vanished(id: &ClusterId) -> Report {
    Report::fatal(SqlState::UNKNOWN_TARGET, format!("cluster {id} has been deleted")).hint("Type: pgferry list")
}

#[async_trait]
impl Directory for Kubernetes {
    fn knows_context(&self, name: &str) -> bool {
        self.contexts.knows(name)
    }

    async fn resolve(&self, ask: &Ask) -> Result<Upstream, Failure> {
        let context = self.contexts.get(ask.target.context.as_deref(), &ask.identity, Some(&ask.progress)).await?;
        // What a watch remembers is believed where it leads somewhere; nobody is sent away on old news.
        let serves = |view: &View| matches!(view.choose(ask.target.mode, Preference::default()), Choice::Pod(_));
        let view = if let Some(view) = self.remembered(ask, &context).filter(serves) {
            view
        } else if let Some(view) = self.read_again(ask, &context).await?.filter(serves) {
            view
        } else {
            let lookup = Lookup { context: &context, systems: &self.systems, deadline: ask.deadline };
            let view = lookup.find(&ask.target).await?;
            self.remember(ask, &context, &view);
            view
        };
        self.settle(ask, &context, view, None).await
    }

    async fn resolve_again(&self, ask: &Ask, stale: &Upstream) -> Result<Upstream, Failure> {
        let id = &stale.cluster;
        let context = self.contexts.get(Some(&id.context), &ask.identity, Some(&ask.progress)).await?;
        let Some(system) = self.systems.named(&stale.system) else {
            return Err(vanished(id).into());
        };
        let (namespace, name) = names::place(id)?;
        let view = reads::view(&context, &self.systems, system, (&namespace, &name), ask.deadline).await?;
        let view = view.ok_or_else(|| Failure { report: vanished(id), retry: Retry::No })?;
        // In another cluster a server of the same name is not the one that was found wrong.
        let stale = Some(stale.server.name()).filter(|_| stale.meaning == context.meaning());
        self.settle(ask, &context, view, stale).await
    }

    fn is_current(&self, upstream: &Upstream) -> bool {
        self.contexts.still_holds(&upstream.cluster.context, upstream.meaning, upstream.credential)
    }

    async fn list(&self, ask: &ListAsk) -> Result<Listing, Failure> {
        let context = self.contexts.get(ask.context.as_deref(), &ask.identity, None).await?;
        let namespace = ask.namespace.as_deref().map(Namespace::parse).transpose().map_err(K8sError::from)?;
        Ok(super::list::list(&context, &self.systems, namespace.as_ref(), ask.deadline).await?)
    }

    fn warm(&self) {
        /// An idle connection lives longer than this.
        const ENOUGH: Duration = Duration::from_secs(30);
        let mut warmed = self.warmed.lock().unwrap_or_else(PoisonError::into_inner);
        if warmed.is_some_and(|at| at.elapsed() < ENOUGH) {
            return;
        }
        *warmed = Some(Instant::now());
        drop(warmed);
        let contexts = Arc::clone(&self.contexts);
        tokio::spawn(async move {
            // A failure is told to the client that needs the connection.
            if let Ok(context) = contexts.get(None, &Identity::Local, None).await {
                let known = context.discover_once(Instant::now() + ENOUGH);
                let (_, ()) = tokio::join!(known, context.touch());
            }
        });
    }
}
