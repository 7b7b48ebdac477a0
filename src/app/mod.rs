//! Puts the parts together: the only layer that names concrete types of every other one.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::Instant,
};
use tracing::{error, info, warn};

use crate::{
    audit::{self, Audit},
    auth::{
        claimed::claimed,
        client::{LEAST_ITERATIONS, MakeError, Verifier},
        peer::AllowedUids,
    },
    error::ClientFacing as _,
    k8s::{api::contexts::Contexts, dial::dialer::Dialer, review::Reviews},
    metrics::Metrics,
    server::{self, Stop, descriptors, dumps, listen},
    session::{Parts, Sessions, permit::rules::Pattern, phase::Phase, registry::Registry, target::parse_target},
    settings::{self, Settings, SettingsError},
    tls::accept::Acceptor,
    upstream::{Directory, Failure, Identity, ListAsk, Listing, Review},
};

mod http;
mod parts;

use parts::{
    aliases, client_tls, kubernetes, limits, listeners, liveness, methods, permit_params, session_params, sinks,
    transport,
};

/// How long `pgferry list` may take: a large cluster's lists come in pages.
const LIST: Duration = Duration::from_mins(1);

/// A pgferry that listens and does not accept yet.
pub struct Server {
    bound: Vec<listen::Bound>,
    sessions: Arc<Sessions>,
    contexts: Arc<Contexts>,
    review: Arc<dyn Review>,
    audit: Audit,
    phase: watch::Sender<Phase>,
    params: server::Params,
    /// Says that clients are served.
    accepts: watch::Sender<bool>,
    http: Option<http::Answering>,
}

impl Server {
    /// Listens where the settings say.
    ///
    /// # Errors
    /// Where it cannot, or the TLS files cannot be used. That Kubernetes cannot be reached is no error.
    pub fn bind(settings: &Settings) -> anyhow::Result<Self> {
        let bound = listeners(settings)?;
        let http = settings.http.listen.map(http::Bound::new).transpose()?;
        let acceptor = Acceptor::new(&client_tls(settings)).context("TLS for clients")?;
        let (contexts, directory, credentials) = kubernetes(settings);
        let review: Arc<dyn Review> = Arc::new(Reviews::new(Arc::clone(&contexts), settings.auth.audiences.clone()));
        let dialer = Dialer::new(
            Arc::clone(&contexts),
            transport(settings),
            liveness(settings),
            settings.kubernetes.connect_timeout,
        );
        let audit = sinks(settings)?;
        let metrics = Metrics::new(env!("CARGO_PKG_VERSION"));
        let (phase, watched) = watch::channel(Phase::Serving);
        let sessions = Sessions::new(Parts {
            directory: Arc::new(directory),
            credentials: Arc::new(credentials),
            dial: Arc::new(dialer),
            audit: audit.clone(),
            metrics: metrics.clone(),
            methods: methods(settings, &review)?,
            review: Arc::clone(&review),
            acceptor,
            allowed: AllowedUids::new(settings.listen.allowed_uids.clone()),
            params: session_params(settings),
            registry: Registry::new(limits(settings)),
            phase: watched.clone(),
        });
        let params = server::Params { drain: settings.sessions.drain, max_startups: settings.sessions.max_startups };
        let accepts = watch::Sender::new(false);
        let http = http.map(|bound| {
            let phase = (accepts.subscribe(), watched);
            bound.answer(http::endpoints(phase, audit.clone(), metrics, Arc::clone(&sessions)))
        });
        Ok(Self { bound, sessions, contexts, review, audit, phase, params, accepts, http })
    }

    fn reload(&self, settings: &Settings) -> Reload {
        let (sessions, review) = (Arc::clone(&self.sessions), Arc::clone(&self.review));
        Reload { sessions, review, audit: self.audit.clone(), auth: settings.auth.clone() }
    }

    /// The port of the listener that takes any target.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.bound.iter().filter(|bound| bound.target().is_none()).find_map(listen::Bound::port)
    }

    /// Serves until it is told to stop and every session has ended.
    pub async fn run(self, stop: watch::Receiver<Stop>) {
        // Before anybody is told where: connections wait in the kernel's queue until they are accepted.
        self.accepts.send_replace(true);
        if let Some(http) = &self.http {
            info!("http on {}", http.address());
        }
        for bound in &self.bound {
            if let Some(target) = bound.target() {
                info!("listening on {bound} for {target}");
            } else {
                info!("listening on {bound}");
            }
        }
        let contexts = self.contexts;
        let greeting = tokio::spawn(async move { greet_kubernetes(&contexts).await });
        server::run(self.bound, self.sessions, self.phase, stop, self.params).await;
        greeting.abort();
        self.audit.drain().await;
        // What is left besides watches and idle connections to API servers was left behind.
        info!(tasks = Handle::current().metrics().num_alive_tasks(), "stopped");
    }
}

/// Serves until SIGTERM or Ctrl-C.
///
/// # Errors
/// Where it cannot listen, or the TLS files cannot be used. That Kubernetes cannot be reached is only a warning.
pub async fn serve<R>(settings: &Settings, read_again: R) -> anyhow::Result<()>
where
    R: Fn() -> Result<Settings, SettingsError> + Send + 'static,
{
    keep_secrets_in(settings);
    descriptors::raise_limit();
    let server = Server::bind(settings)?;
    let (stop, signals) = server::signals().context("signals")?;
    let signals = tokio::spawn(signals);
    let hangups = tokio::spawn(hung_up(server.reload(settings), read_again));
    server.run(stop).await;
    signals.abort();
    hangups.abort();
    Ok(())
}

/// On SIGHUP the audit log is opened again, for who rotates it has moved the old one away; and what may change is read again.
async fn hung_up(reload: Reload, read_again: impl Fn() -> Result<Settings, SettingsError>) {
    let Ok(mut hangups) = signal(SignalKind::hangup()) else { return };
    while hangups.recv().await.is_some() {
        reload.audit.reopen();
        info!("the audit log is opened again");
        let problem = match read_again() {
            Ok(settings) => reload.apply(&settings).err().map(|error| format!("{error:#}")),
            Err(error) => Some(format!("{:#}", anyhow::Error::from(error))),
        };
        match &problem {
            None => info!("logins and rules are read again"),
            Some(problem) => error!("the configuration is not usable, and the old one stays: {problem}"),
        }
        reload.audit.note(audit::Event::Reload { problem: problem.map(Into::into) });
    }
}

/// What can be configured anew while sessions are open.
struct Reload {
    sessions: Arc<Sessions>,
    review: Arc<dyn Review>,
    audit: Audit,
    /// What was in force at the start.
    auth: settings::Auth,
}

impl Reload {
    /// # Errors
    /// Where the settings cannot be used, or change what is fixed at the start.
    fn apply(&self, settings: &Settings) -> anyhow::Result<()> {
        let (before, now) = (&self.auth, &settings.auth);
        anyhow::ensure!(
            (before.methods.is_empty(), &before.client_ca, &before.audiences)
                == (now.methods.is_empty(), &now.client_ca, &now.audiences),
            "whether auth.methods asks for a proof, auth.client_ca and auth.audiences are fixed at the start: restart pgferry"
        );
        self.sessions.replace(methods(settings, &self.review)?, permit_params(settings));
        Ok(())
    }
}

/// Looks at the names of clusters in the settings, which only a session can read.
///
/// # Errors
/// Where one of them can lead nowhere; all of them at once.
pub fn check(settings: &Settings) -> Result<(), SettingsError> {
    let bindings = settings
        .listen
        .bindings
        .iter()
        .filter_map(|(port, target)| Some(format!("listen.bindings.{port}: {}", parse_target(target).err()?)));
    let aliases = aliases(settings)
        .into_iter()
        .filter_map(|(name, alias)| Some(format!("names.aliases.{name:?}: {}", alias.parse().err()?)));
    let rules = settings.access.iter().flat_map(|rule| &rule.targets);
    let patterns = rules.filter_map(|target| Some(format!("[[access]] targets: {}", Pattern::parse(target).err()?)));
    let logins = settings.auth.logins.iter().filter_map(|(name, login)| {
        let verifier = login.verifier.expose_secret().parse::<Verifier>();
        let names = [name].into_iter().chain(&login.groups);
        let claims = names.filter_map(|name| Some(format!("{name:?} {}", claimed("", name).err()?)));
        let problems = verifier.err().map(|error| format!("verifier: {error}")).into_iter().chain(claims);
        let problems: Vec<String> = problems.collect();
        (!problems.is_empty()).then(|| format!("auth.logins.{name}: {}", problems.join("; ")))
    });
    let problems: Vec<String> = bindings.chain(aliases).chain(patterns).chain(logins).collect();
    if problems.is_empty() { Ok(()) } else { Err(SettingsError::Invalid(problems)) }
}

/// What can be reached.
///
/// # Errors
/// Where Kubernetes does not answer.
pub async fn list(settings: &Settings) -> Result<Listing, Failure> {
    keep_secrets_in(settings);
    let (_, directory, _) = kubernetes(settings);
    // The namespace in force narrows the list only where the person says so.
    let namespace = settings.kubernetes.namespace.clone();
    let ask = ListAsk { identity: Identity::Local, context: None, namespace, deadline: Instant::now() + LIST };
    directory.list(&ask).await
}

/// Before the first Secret is read.
fn keep_secrets_in(settings: &Settings) {
    if !settings.process.core_dumps {
        dumps::forbid();
    }
}

/// Says where names lead, or that nothing answers: laptops come online later.
async fn greet_kubernetes(contexts: &Contexts) {
    let context = match contexts.get(None, None).await {
        Ok(context) => context,
        Err(error) => {
            let hint = error.report().hint.unwrap_or_default();
            return warn!("Kubernetes is not usable yet: {error}. {hint}");
        }
    };
    let (name, namespace, server) = (context.name(), context.namespace(), context.server());
    match context.version(Instant::now() + Duration::from_secs(10)).await {
        Ok(version) => info!(context = name, namespace, server, version, "ready"),
        Err(error) => {
            let hint = error.report().hint.unwrap_or_default();
            warn!(context = name, namespace, "Kubernetes does not answer yet: {error}. {hint}");
        }
    }
}

/// What the configuration holds of a password.
///
/// # Errors
/// Where it cannot be a password, or the system gives no random bytes.
pub fn verifier(password: &SecretString) -> Result<String, MakeError> {
    Verifier::make(password, LEAST_ITERATIONS)
}
