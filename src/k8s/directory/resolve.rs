//! Finding clusters by name, and the pod of one that serves: the seam's `Directory`.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::watch, time::Instant};
use tracing::debug;

use crate::{
    error::{Report, SqlState},
    k8s::{
        api::{
            client::Context,
            contexts::Contexts,
            error::K8sError,
            names::{self, Namespace, Place},
            objects::{Meta, Pod},
            reader::Reader,
        },
        cluster::{
            looks::Looks,
            overrides::Overrides,
            read,
            recent::Recent,
            reflector::WatchParams,
            snapshot::{Choice, Preference, View},
            watches::Watches,
        },
        directory::{
            external::External,
            known::{FindKey, Known, Led, LookKey, find_key, look_key},
            lookup::Lookup,
            owners::owners,
            tls::TlsReader,
            undisputed::Undisputed,
        },
        operators::{
            facts::{CertificateName, Facts, Members},
            registry::Systems,
            system::SystemRef,
        },
    },
    upstream::{
        Ask, ClusterId, Directory, Failure, Found, ListAsk, Listing, Lost, Mode, PodId, Retry, Server, Target,
        TlsFacts, TlsMode, Upstream,
    },
};

/// Between two looks at a cluster without a primary, where no watch tells.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The settings of the directory.
#[derive(Clone, Debug, Default)]
pub struct DirectoryParams {
    /// What the configuration says about single clusters.
    pub clusters: Arc<Overrides>,
    /// How clusters in use are watched.
    pub watches: WatchParams,
    /// Which servers outside Kubernetes may be dialled.
    pub external: External,
    /// Whether pods are dialled at their addresses, so that nothing but the server's own TLS encrypts.
    pub direct: bool,
}

/// Whether somebody who asks for this would be sent somewhere.
fn serves(view: &View, mode: Mode) -> bool {
    matches!(view.choose(view.mode(mode), Preference::default()), Choice::Pod(_))
}

/// Kubernetes, as the seam sees it.
#[derive(Debug)]
pub struct Kubernetes {
    contexts: Arc<Contexts>,
    systems: Arc<Systems>,
    watches: Watches,
    params: DirectoryParams,
    known: Known,
    recent: Arc<Recent>,
    finds: Looks<FindKey, View, Failure>,
    looks: Looks<LookKey, Option<View>, K8sError>,
    turn: AtomicUsize,
    /// Servers of clusters where only those know that were asked whether they take writes, too.
    undisputed: Undisputed,
    warmed: Mutex<Option<Instant>>,
}

impl Kubernetes {
    /// Over these contexts.
    #[must_use]
    pub fn new(contexts: Arc<Contexts>, systems: Arc<Systems>, recent: Arc<Recent>, params: DirectoryParams) -> Self {
        Self {
            watches: Watches::new(Arc::clone(&contexts), Arc::clone(&systems), params.watches),
            systems,
            contexts,
            params,
            known: Known::default(),
            recent,
            finds: Looks::default(),
            looks: Looks::default(),
            turn: AtomicUsize::new(0),
            undisputed: Undisputed::default(),
            warmed: Mutex::default(),
        }
    }

    /// The cluster that a name means, as a running watch knows it: no request.
    fn remembered(&self, ask: &Ask, context: &Context) -> Option<View> {
        let led = self.known.led(ask, context)?;
        // A bare name that led elsewhere is looked for again now and then: it may be somebody's here since.
        let is_sure = led.place.0 == *context.namespace() || ask.target.name.contains('.');
        if !is_sure && !led.is_fresh() {
            return None;
        }
        self.watches.view(&led.place, context, &led.system)
    }

    /// The same, of a cluster that is not watched: its own objects, and nobody else's.
    async fn read_again(&self, ask: &Ask, reader: Reader<'_>) -> Result<Option<View>, Failure> {
        let context = reader.context;
        let is_watched = |led: &Led| self.watches.is_watched(&led.place, context, &led.system);
        let led = self.known.led(ask, context).filter(|led| led.is_fresh() && !is_watched(led));
        let Some(Led { place, system, .. }) = led else {
            return Ok(None);
        };
        let read = || self.read(reader, (&place, &system));
        let is_good = |view: &Option<View>| view.as_ref().is_some_and(|view| serves(view, ask.target.mode));
        match self.looks.first_look(&look_key(context, &place, &system), ask.deadline, is_good, read).await {
            // Whatever has changed, the name is looked up anew.
            Err(error) if error.is_forbidden() || error.is_absent() => Ok(None),
            view => Ok(view?),
        }
    }

    /// Looks until the cluster has a server for the ask, or `wait_until` has passed. `stale` has just said that it is
    /// not the one.
    async fn settle(
        &self,
        ask: &Ask,
        reader: Reader<'_>,
        view: View,
        stale: Option<&Upstream>,
    ) -> Result<Upstream, Failure> {
        let context = reader.context;
        let id = view.id(context.name());
        let mut view = view;
        loop {
            let mode = view.mode(ask.target.mode);
            if matches!(view.facts.members, Members::External(_)) && view.facts.broken.is_none() {
                return self.external(ask, reader, &view, stale).await;
            }
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let before = self.known.primary(context, &id);
            let report = match view.choose(
                mode,
                Preference { turn, last: before.as_deref(), avoid: stale.map(|stale| stale.server.name()) },
            ) {
                Choice::Pod(pod) => {
                    let pod = pod.clone();
                    if mode == Mode::Rw && stale.is_some() {
                        self.known.remember_primary(context, &id, &pod.metadata.name);
                    }
                    let lost = self.watches.guard(context, &view, (&pod, mode));
                    let tls = self.tls(reader, &view.facts).read(&view.facts, &pod.metadata.name).await?;
                    let port = view.port(&pod);
                    let rivals =
                        if mode == Mode::Rw { view.rivals(&pod).into_iter().map(pod_id).collect() } else { Vec::new() };
                    let owners = owners(&self.systems, &view, &pod, context);
                    let upstream = self.upstream((ask, context), view, (Server::Pod(pod_id(&pod)), port), (tls, lost));
                    let upstream = Upstream { owners, ..upstream };
                    return Ok(self.undisputed.with_rivals(upstream, rivals));
                }
                Choice::Never(report) => return Err(with_hint(report, ask).into()),
                Choice::Wait(report) => with_hint(report, ask),
            };
            if Instant::now() >= ask.wait_until {
                return Err(report.into());
            }
            self.announce((ask, context), view.clone(), &id);
            view = self.awaited(ask, reader, (&id, view)).await?;
        }
    }

    /// The cluster as a look finds it that began at `since` or later, be it another client's.
    async fn look(
        &self,
        reader: Reader<'_>,
        (place, system): (&Place, &SystemRef),
        since: Instant,
    ) -> Result<Option<View>, K8sError> {
        let read = || self.read(reader, (place, system));
        self.looks.look(&look_key(reader.context, place, system), (since, reader.deadline), read).await
    }

    async fn read(&self, reader: Reader<'_>, (place, system): (&Place, &SystemRef)) -> Result<Option<View>, K8sError> {
        read::view(reader, &self.systems, system, (&place.0, &place.1)).await
    }

    /// What the cluster has come to, for one who waits: as a watch tells, else as a look finds it.
    async fn awaited(&self, ask: &Ask, reader: Reader<'_>, (id, view): (&ClusterId, View)) -> Result<View, Failure> {
        let (context, place, system) = (reader.context, view.place(), view.system.clone());
        let longest = LOOK_AGAIN.min(ask.wait_until.saturating_duration_since(Instant::now()));
        self.watches.changed(&place, context, &system, longest).await;
        if let Some(view) = self.watches.view(&place, context, &system) {
            return Ok(view);
        }
        match self.look(reader, (&place, &system), Instant::now() - LOOK_AGAIN / 2).await {
            Ok(view) => view.ok_or_else(|| vanished(id).into()),
            // What was known is still the best answer to who waits; it is looked at again.
            Err(error) if error.is_passing() => {
                debug!(cluster = %id, %error, "the cluster could not be looked at");
                Ok(view)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Says what is waited for, and of which cluster: whose logins those are is as fresh as the view.
    fn announce(&self, (ask, context): (&Ask, &Context), view: View, id: &ClusterId) {
        let what = if ask.target.mode == Mode::Ro { "a ready replica" } else { "a ready primary" };
        ask.progress.waiting_for(format!("{what} of {id}"));
        self.recent.keep(context, id.clone(), self.params.clusters.with_configured_secret(ask, context, view));
        ask.progress.found(Found { cluster: id.clone(), meaning: context.meaning() });
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
            owners: Vec::new(),
            meaning: context.meaning(),
            credential: context.credential(),
            system: view.system.name().into(),
            server,
            port,
            mode: view.mode(ask.target.mode),
            standby_cluster: view.is_standby(),
            pooled: view.facts.pooled,
            rivals: Vec::new(),
            tls,
            auth: self.params.clusters.auth(ask, context, &view.facts),
            lost,
        };
        self.recent.keep(context, id, self.params.clusters.with_configured_secret(ask, context, view));
        upstream
    }

    fn tls<'a>(&'a self, reader: Reader<'a>, facts: &Facts) -> TlsReader<'a> {
        let configured = self.params.clusters.configured(facts).map(|configured| &configured.tls);
        TlsReader { reader, configured, direct: self.params.direct }
    }

    /// A server outside Kubernetes.
    async fn external(
        &self,
        ask: &Ask,
        reader: Reader<'_>,
        view: &View,
        stale: Option<&Upstream>,
    ) -> Result<Upstream, Failure> {
        let context = reader.context;
        let id = view.id(context.name());
        let servers = view.outside(view.mode(ask.target.mode));
        let is = |stale: &Upstream| {
            servers.iter().position(|(host, port)| host == stale.server.name() && *port == stale.port)
        };
        let next = stale.and_then(is).map_or(0, |at| at + 1);
        let Some((host, port)) = servers.get(next.checked_rem(servers.len()).unwrap_or(0)) else {
            return Err(vanished(&id).into());
        };
        let (host, port) = (host.as_str(), *port);
        self.params.external.permits(&id, host, port)?;
        // The way leads through the open: never plaintext unless the Secret says so, and verified where that can be.
        let mut facts = view.facts.clone();
        facts.tls.name = Some(CertificateName::Cluster(host.to_owned()));
        if facts.tls.mode == TlsMode::Allow {
            facts.tls.mode = if facts.tls.ca.is_empty() { TlsMode::Require } else { TlsMode::VerifyCa };
        }
        let tls = self.tls(reader, &facts).read(&facts, host).await?;
        let server = Server::External { host: host.to_owned(), others: servers.len() > 1 };
        let never = watch::Sender::new(None).subscribe();
        Ok(self.upstream((ask, context), view.clone(), (server, port), (tls, never)))
    }
}

fn pod_id(pod: &Pod) -> PodId {
    let Meta { namespace, name, uid, .. } = &pod.metadata;
    PodId { namespace: namespace.to_string(), name: name.to_string(), uid: uid.clone() }
}

/// Where only a replica is missing, the same connection to any server would do.
fn with_hint(report: Report, ask: &Ask) -> Report {
    if ask.target.mode != Mode::Ro || report.hint.is_some() {
        return report;
    }
    let any = Target { mode: Mode::Any, ..ask.target.clone() };
    report.hint(format!("Its primary takes reads too. Type: {}", ask.conninfo.to(&any.to_string())))
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
        let context = self.contexts.get(ask.target.context.as_deref(), Some(&ask.progress)).await?;
        let reader = Reader::new(&context, ask.deadline);
        // What a watch remembers is believed where it leads somewhere; nobody is sent away on old news.
        let serves = |view: &View| serves(view, ask.target.mode);
        let view = if let Some(view) = self.remembered(ask, &context).filter(serves) {
            view
        } else if let Some(view) = self.read_again(ask, reader).await?.filter(serves) {
            view
        } else {
            let lookup = Lookup { reader, systems: &self.systems };
            let find = || lookup.find(ask);
            let view = self.finds.first_look(&find_key(ask, &context), ask.deadline, serves, find).await?;
            self.known.remember(ask, &context, &view);
            view
        };
        self.settle(ask, reader, view, None).await
    }

    async fn resolve_again(&self, ask: &Ask, stale: &Upstream, since: Instant) -> Result<Upstream, Failure> {
        let id = &stale.cluster;
        let context = self.contexts.get(Some(&id.context), Some(&ask.progress)).await?;
        let reader = Reader::new(&context, ask.deadline);
        let Some(system) = self.systems.named(&stale.system) else {
            return Err(vanished(id).into());
        };
        let (namespace, name) = names::place(id).map_err(K8sError::from)?;
        let view = self.look(reader, (&(namespace, name), system), since).await.map_err(|error| {
            // Who waits waits on: the next look may be answered.
            let passing = error.is_passing();
            let failure = Failure::from(error);
            if passing { Failure { retry: Retry::Resolve, ..failure } } else { failure }
        })?;
        let view = view.ok_or_else(|| Failure { report: vanished(id), retry: Retry::No })?;
        // In another cluster a server of the same name is not the one that was found wrong.
        let stale = Some(stale).filter(|_| stale.meaning == context.meaning());
        self.settle(ask, reader, view, stale).await
    }

    fn undisputed(&self, upstream: &Upstream) {
        self.undisputed.note(upstream);
    }

    fn is_current(&self, upstream: &Upstream) -> bool {
        self.contexts.still_holds(&upstream.cluster.context, upstream.meaning, upstream.credential)
    }

    async fn list(&self, ask: &ListAsk) -> Result<Listing, Failure> {
        let context = self.contexts.get(ask.context.as_deref(), None).await?;
        let namespace = ask.namespace.as_deref().map(Namespace::parse).transpose().map_err(K8sError::from)?;
        let reader = Reader::new(&context, ask.deadline);
        Ok(crate::k8s::directory::list::list(reader, &self.systems, namespace.as_ref()).await?)
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
            if let Ok(context) = contexts.get_quietly(None).await {
                let known = context.discover_once(Instant::now() + ENOUGH);
                let (_, ()) = tokio::join!(known, context.touch());
            }
        });
    }
}
