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
use tokio::time::Instant;

use super::{
    choose::{Choice, View},
    client::Context,
    contexts::Contexts,
    lookup::{self, Found},
    operators::Operator,
    reads,
    watches::{WatchParams, Watches},
};
use crate::{
    error::{Report, SqlState},
    upstream::{
        Ask, ClusterId, Directory, Failure, Identity, ListAsk, Listing, Mode, PodId, Retry, TlsFacts, TlsMode, Upstream,
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
}

/// The settings of the directory.
#[derive(Clone, Debug, Default)]
pub struct DirectoryParams {
    /// By `cluster.namespace`, or by `cluster` alone.
    pub tls: BTreeMap<String, TlsOverride>,
    /// How clusters in use are watched.
    pub watches: WatchParams,
}

/// Where a name led last time; believed only while a watch confirms it.
type Known = HashMap<(Identity, String, String), (ClusterId, &'static dyn Operator)>;

/// Kubernetes, as the seam sees it.
#[derive(Debug)]
pub struct Kubernetes {
    pub(super) contexts: Arc<Contexts>,
    pub(super) watches: Watches,
    params: DirectoryParams,
    known: Mutex<Known>,
    /// What is known of each cluster that was resolved, for its login.
    pub(super) seen: Mutex<HashMap<(Identity, ClusterId), Arc<View>>>,
    pub(super) refusals: super::credentials::Refusals,
    turn: AtomicUsize,
    warmed: Mutex<Option<Instant>>,
}

impl Kubernetes {
    /// Over these contexts.
    #[must_use]
    pub fn new(contexts: Arc<Contexts>, params: DirectoryParams) -> Self {
        Self {
            watches: Watches::new(Arc::clone(&contexts), params.watches),
            contexts,
            params,
            known: Mutex::default(),
            seen: Mutex::default(),
            refusals: super::credentials::Refusals::default(),
            turn: AtomicUsize::new(0),
            warmed: Mutex::default(),
        }
    }

    /// The cluster that a name means, as a running watch knows it: no request.
    fn remembered(&self, ask: &Ask, context: &Context) -> Option<View> {
        let key = (ask.identity.clone(), context.name().to_owned(), ask.target.name.clone());
        let (id, operator) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()?;
        self.watches.view(&id, &ask.identity, operator)
    }

    fn remember(&self, ask: &Ask, context: &Context, view: &View) {
        let key = (ask.identity.clone(), context.name().to_owned(), ask.target.name.clone());
        let value = (view.id(context.name()), view.operator);
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key, value);
    }

    /// Looks until the cluster has a server for the ask, or `wait_until` has passed.
    async fn settle(&self, ask: &Ask, context: &Context, view: View) -> Result<Upstream, Failure> {
        let id = view.id(context.name());
        let operator = view.operator;
        let mut view = view;
        loop {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let report = match view.choose(ask.target.mode, turn) {
                Choice::Pod(pod) => {
                    let pod = pod.clone();
                    let lost = self.watches.guard(&id, &ask.identity, operator, (&pod, ask.target.mode));
                    let tls = self.tls(context, &view, ask.deadline).await?;
                    let upstream = Upstream {
                        cluster: id.clone(),
                        system: operator.system(),
                        pod: PodId { namespace: id.namespace.clone(), name: pod.metadata.name, uid: pod.metadata.uid },
                        port: view.facts.port,
                        mode: ask.target.mode,
                        standby_cluster: view.facts.standby,
                        pooled: false,
                        tls,
                        lost,
                    };
                    let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.insert((ask.identity.clone(), id), Arc::new(view));
                    return Ok(upstream);
                }
                Choice::Never(report) => return Err(report.into()),
                Choice::Wait(report) => report,
            };
            if Instant::now() >= ask.wait_until {
                return Err(report.into());
            }
            let what = if ask.target.mode == Mode::Ro { "a ready replica" } else { "a ready primary" };
            ask.progress.waiting_for(format!("{what} of {id}"));
            let longest = LOOK_AGAIN.min(ask.wait_until.saturating_duration_since(Instant::now()));
            self.watches.changed(&id, &ask.identity, operator, longest).await;
            view = match self.watches.view(&id, &ask.identity, operator) {
                Some(view) => view,
                None => reads::view(context, operator, (&id.namespace, &id.name), ask.deadline)
                    .await?
                    .ok_or_else(|| Failure::from(vanished(&id)))?,
            };
        }
    }

    /// The system's facts, and what the configuration says.
    async fn tls(&self, context: &Context, view: &View, deadline: Instant) -> Result<TlsFacts, Failure> {
        let facts = &view.facts;
        let full = format!("{}.{}", facts.name, facts.namespace);
        let configured = self.params.tls.get(&full).or_else(|| self.params.tls.get(&facts.name));
        let mode = configured.and_then(|configured| configured.mode).unwrap_or(facts.tls);
        let mut tls = TlsFacts { mode, server_name: facts.server_name.clone(), ca_pem: None, client_identity: None };
        if !matches!(mode, TlsMode::VerifyCa | TlsMode::VerifyFull) {
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
            tls.ca_pem = Some(pem.into());
        } else if let Some(ca) = &facts.ca {
            let secret = reads::get_secret(context, &facts.namespace, &ca.secret, deadline).await?;
            tls.ca_pem = secret.and_then(|secret| secret.get(ca.key).map(Arc::from));
        }
        Ok(tls)
    }
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
        let serves = |view: &View| matches!(view.choose(ask.target.mode, 0), Choice::Pod(_));
        let view = if let Some(view) = self.remembered(ask, &context).filter(serves) {
            view
        } else {
            let Found { view } = lookup::find(&context, &ask.target.name, ask.deadline).await?;
            self.remember(ask, &context, &view);
            view
        };
        self.settle(ask, &context, view).await
    }

    async fn resolve_again(&self, ask: &Ask, stale: &Upstream) -> Result<Upstream, Failure> {
        let id = &stale.cluster;
        let context = self.contexts.get(Some(&id.context), &ask.identity, Some(&ask.progress)).await?;
        let operator = super::operators::all().into_iter().find(|operator| operator.system() == stale.system);
        let Some(operator) = operator else {
            return Err(vanished(id).into());
        };
        let view = reads::view(&context, operator, (&id.namespace, &id.name), ask.deadline).await?;
        let view = view.ok_or_else(|| Failure { report: vanished(id), retry: Retry::No })?;
        self.settle(ask, &context, view).await
    }

    async fn list(&self, ask: &ListAsk) -> Result<Listing, Failure> {
        let context = self.contexts.get(ask.context.as_deref(), &ask.identity, None).await?;
        Ok(super::list::list(&context, ask.namespace.as_deref(), ask.deadline).await?)
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
                tokio::join!(context.touch(), context.touch());
            }
        });
    }
}
