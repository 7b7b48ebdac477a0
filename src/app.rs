//! Puts the parts together: the only file that names concrete types of every layer.

use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

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
    audit::{self, Audit, Sink},
    auth::{
        claimed::claimed,
        client::{Account, LEAST_ITERATIONS, Logins, MakeError, Methods, Verifier},
        peer::AllowedUids,
    },
    error::ClientFacing as _,
    k8s::{
        api::{connection::ClientParams, contexts::Contexts},
        cluster::{
            overrides::{ClusterParams, Overrides, TlsOverride},
            recent::Recent,
            reflector::WatchParams,
        },
        credentials::secrets::SecretCredentials,
        dial::{
            dialer::{Dialer, Transport},
            tunnel::Liveness,
        },
        directory::{
            external::External,
            resolve::{DirectoryParams, Kubernetes},
        },
        operators::{
            configured::Layout,
            registry::{Systems, SystemsParams},
            zalando::ZalandoParams,
        },
        review::Reviews,
    },
    server::{self, Stop, descriptors, dumps, listen},
    session::{
        OnFailure, Params, Parts, Sessions,
        permit::{
            self, PermitParams,
            rules::{Bounds, Pattern, Rule, Rules},
        },
        phase::Phase,
        registry::{Limits, Registry},
        route::{Alias, Names},
        target::parse_target,
    },
    settings::{self, Authority, ClusterAuth, Settings, SettingsError, SslMode, Tls, host_and_port},
    tls::accept::{Acceptor, ClientTls},
    upstream::{AuthMethod, Directory, Failure, Identity, ListAsk, Listing, Mode, Review, TlsMode},
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
}

impl Server {
    /// Listens where the settings say.
    ///
    /// # Errors
    /// Where it cannot, or the TLS files cannot be used. That Kubernetes cannot be reached is no error.
    pub fn bind(settings: &Settings) -> anyhow::Result<Self> {
        let bound = listeners(settings)?;
        let acceptor = Acceptor::new(&client_tls(settings)).context("TLS for clients")?;
        let (contexts, directory, credentials) = kubernetes(settings);
        let review: Arc<dyn Review> = Arc::new(Reviews::new(Arc::clone(&contexts), settings.auth.audiences.clone()));
        let dialer = Dialer::new(
            Arc::clone(&contexts),
            transport(settings),
            liveness(settings),
            settings.kubernetes.connect_timeout,
        );
        let audit = audit(settings)?;
        let (phase, watched) = watch::channel(Phase::Serving);
        let sessions = Sessions::new(Parts {
            directory: Arc::new(directory),
            credentials: Arc::new(credentials),
            dial: Arc::new(dialer),
            audit: audit.clone(),
            methods: methods(settings, &review)?,
            review: Arc::clone(&review),
            acceptor,
            allowed: AllowedUids::new(settings.listen.allowed_uids.clone()),
            params: session_params(settings),
            registry: Registry::new(Limits {
                all: settings.sessions.max_connections,
                cluster: Some(settings.sessions.max_per_cluster).filter(|limit| *limit > 0),
            }),
            phase: watched,
        });
        let params = server::Params { drain: settings.sessions.drain, max_startups: settings.sessions.max_startups };
        Ok(Self { bound, sessions, contexts, review, audit, phase, params })
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

fn listeners(settings: &Settings) -> anyhow::Result<Vec<listen::Bound>> {
    let listen = &settings.listen;
    let mut bound = Vec::new();
    let mut port = listen.port;
    if !listen.addresses.is_empty() {
        bound = listen::tcp(&listen.addresses, port, None)?;
        port = bound.first().and_then(listen::Bound::port).unwrap_or(port);
    }
    if let Some(directory) = &listen.socket_dir {
        bound.push(listen::unix(directory, port, None)?);
    }
    for (port, target) in &listen.bindings {
        let target = parse_target(target).with_context(|| format!("listen.bindings.{port}"))?;
        if !listen.addresses.is_empty() {
            bound.extend(listen::tcp(&listen.addresses, *port, Some(&target))?);
        }
        if let Some(directory) = &listen.socket_dir {
            bound.push(listen::unix(directory, *port, Some(&target))?);
        }
    }
    Ok(bound)
}

fn client_tls(settings: &Settings) -> ClientTls {
    let listen = &settings.listen;
    match (listen.tls, &listen.tls_cert, &listen.tls_key) {
        (Tls::Files, Some(certificate), Some(key)) => ClientTls::Files {
            certificate: certificate.clone(),
            key: key.clone(),
            client_ca: settings.auth.client_ca.clone(),
        },
        (Tls::Off, _, _) => ClientTls::Off,
        _ => ClientTls::SelfSigned,
    }
}

fn client_params(settings: &Settings) -> ClientParams {
    let kubernetes = &settings.kubernetes;
    ClientParams {
        kubeconfig: kubernetes.kubeconfig.clone(),
        context: kubernetes.context.as_ref().map(|name| kubernetes.contexts.get(name).unwrap_or(name).clone()),
        namespace: kubernetes.namespace.clone(),
        short_names: kubernetes.contexts.clone(),
        request_timeout: kubernetes.request_timeout,
        connect_timeout: kubernetes.connect_timeout,
        exec_timeout: kubernetes.exec_timeout,
    }
}

/// Kubernetes, as the seam sees it.
fn kubernetes(settings: &Settings) -> (Arc<Contexts>, Kubernetes, SecretCredentials) {
    let contexts = Arc::new(Contexts::new(client_params(settings)));
    let systems = Arc::new(Systems::new(&systems_params(settings)));
    let (recent, params) = (Arc::new(Recent::default()), directory_params(settings));
    let clusters = Arc::clone(&params.clusters);
    let directory = Kubernetes::new(Arc::clone(&contexts), Arc::clone(&systems), Arc::clone(&recent), params);
    let credentials = SecretCredentials::new(Arc::clone(&contexts), systems, clusters, recent);
    (contexts, directory, credentials)
}

fn directory_params(settings: &Settings) -> DirectoryParams {
    let clusters = settings.clusters.iter().map(|(name, cluster)| {
        let (ca_file, ca_config_map) = match cluster.authority() {
            Some(Authority::File(file)) => (Some(file), None),
            Some(Authority::ConfigMap { name, key }) => (None, Some((name, key))),
            None => (None, None),
        };
        let tls = TlsOverride {
            mode: cluster.sslmode.map(tls_mode),
            ca_file,
            ca_config_map,
            server_name: cluster.sslservername.clone(),
        };
        let about = ClusterParams {
            tls,
            auth: cluster.auth.map(auth_method),
            secret: cluster.secret.clone(),
            scram_iterations: cluster.scram_iterations,
        };
        (name.clone(), about)
    });
    DirectoryParams {
        clusters: Arc::new(Overrides(clusters.collect())),
        watches: WatchParams::default(),
        external: match &settings.kubernetes.external {
            settings::External::All(true) => External::Any,
            settings::External::All(false) => External::Only(Vec::new()),
            settings::External::Only(servers) => External::Only(
                servers
                    .iter()
                    .filter_map(|server| host_and_port(server))
                    .map(|(host, port)| (host.to_owned(), port))
                    .collect(),
            ),
        },
        direct: transport(settings) == Transport::Direct,
    }
}

fn systems_params(settings: &Settings) -> SystemsParams {
    let zalando = settings.zalando.clone();
    let configured = settings.systems.iter().map(|system| {
        let (plural, group) = system.resource.split_once('.').unwrap_or((&system.resource, ""));
        let system = system.clone();
        Layout {
            resource: (group.to_owned(), system.version, plural.to_owned()),
            name: system.name,
            cluster_label: system.cluster_label,
            pod_labels: system.pod_labels.into_iter().collect(),
            role_label: system.role_label,
            primary: system.primary,
            replica: system.replica,
            secret: system.secret,
            user_key: system.user_key,
            password_key: system.password_key,
            database_key: system.database_key,
            user: system.user,
            database: system.database,
            port: system.port,
            tls: system.sslmode.map(tls_mode).unwrap_or_default(),
            superuser: system.superuser,
        }
    });
    SystemsParams {
        configured: configured.collect(),
        external_names: settings.kubernetes.external_names.clone(),
        zalando: ZalandoParams {
            secret_name_template: zalando.secret_name_template,
            cluster_labels: zalando.cluster_labels,
            cluster_name_label: zalando.cluster_name_label,
            pod_role_label: zalando.pod_role_label,
            super_username: zalando.super_username,
            cross_namespace_secrets: zalando.cross_namespace_secrets,
        },
    }
}

fn auth_method(auth: ClusterAuth) -> AuthMethod {
    match auth {
        ClusterAuth::ScramSha256 => AuthMethod::ScramSha256,
        ClusterAuth::Md5 => AuthMethod::Md5,
        ClusterAuth::Password => AuthMethod::Password,
        ClusterAuth::Trust => AuthMethod::Trust,
    }
}

fn tls_mode(mode: SslMode) -> TlsMode {
    match mode {
        SslMode::Disable => TlsMode::Disable,
        SslMode::Allow => TlsMode::Allow,
        SslMode::Prefer => TlsMode::Prefer,
        SslMode::Require => TlsMode::Require,
        SslMode::VerifyCa => TlsMode::VerifyCa,
        SslMode::VerifyFull => TlsMode::VerifyFull,
    }
}

fn liveness(settings: &Settings) -> Liveness {
    let kubernetes = &settings.kubernetes;
    Liveness {
        ping_after: kubernetes.ping_after,
        dead_after: kubernetes.dead_after,
        remind_after: kubernetes.remind_after,
    }
}

fn transport(settings: &Settings) -> Transport {
    match settings.kubernetes.transport {
        settings::Transport::PortForward => Transport::PortForward,
        settings::Transport::Direct => Transport::Direct,
    }
}

fn session_params(settings: &Settings) -> Params {
    let sessions = &settings.sessions;
    Params {
        startup_deadline: sessions.startup_deadline,
        connect_timeout: sessions.connect_timeout,
        primary_wait: sessions.primary_wait,
        failover_grace: sessions.failover_grace,
        spare: settings.sessions.spare,
        permits: permit_params(settings),
        audit_failure: match settings.audit.on_failure {
            settings::OnFailure::Refuse => OnFailure::Refuse,
            settings::OnFailure::Allow => OnFailure::Allow,
        },
        names: Names { aliases: aliases(settings), os_user: os_user(), single: settings.names.single },
    }
}

/// Where events are kept.
fn audit(settings: &Settings) -> anyhow::Result<Audit> {
    let stdout = settings.audit.stdout.then_some(Sink::Stdout);
    let sinks: Vec<Sink> = stdout.into_iter().chain(settings.audit.file.clone().map(Sink::File)).collect();
    if sinks.is_empty() { Ok(Audit::off()) } else { Ok(Audit::new(audit::Params::default(), sinks)?) }
}

/// How clients prove who they are, where they must.
fn methods(settings: &Settings, review: &Arc<dyn Review>) -> anyhow::Result<Option<Methods>> {
    let auth = &settings.auth;
    if auth.methods.is_empty() {
        return Ok(None);
    }
    let has = |method| auth.methods.contains(&method);
    let mut accounts = BTreeMap::new();
    for (name, login) in &auth.logins {
        let verifier =
            login.verifier.expose_secret().parse().with_context(|| format!("auth.logins.{name}.verifier"))?;
        accounts.insert(name.clone(), Account { verifier, role: login.role.clone(), groups: login.groups.clone() });
    }
    let logins = has(settings::Method::Login).then(|| Logins::new(auth.login_prefix.clone(), accounts));
    Ok(Some(Methods {
        certificate: has(settings::Method::Certificate),
        logins: logins.transpose().context("random bytes")?,
        tokens: has(settings::Method::Kubernetes).then(|| Arc::clone(review)),
    }))
}

/// `check` has looked at the patterns.
fn permit_params(settings: &Settings) -> PermitParams {
    let rule = |rule: &settings::Access| Rule {
        people: rule.people.clone(),
        groups: rule.groups.clone(),
        targets: rule.targets.iter().filter_map(|target| Pattern::parse(target).ok()).collect(),
        roles: rule.roles.clone(),
        modes: rule.modes.iter().copied().map(mode).collect(),
        until: rule.until,
        reason_required: rule.reason == settings::Reason::Required,
        bounds: Bounds { session: rule.limits.session, idle: rule.limits.idle, connections: rule.limits.connections },
    };
    PermitParams {
        authority: match settings.auth.authority {
            settings::Policy::Rbac => permit::Authority::Review,
            settings::Policy::Rules => permit::Authority::Rules,
        },
        rules: Rules(settings.access.iter().map(rule).collect()),
        recheck: settings.auth.recheck,
        recheck_grace: settings.auth.recheck_grace,
        session_max: settings.auth.session_max,
    }
}

fn mode(mode: settings::Mode) -> Mode {
    match mode {
        settings::Mode::Rw => Mode::Rw,
        settings::Mode::Ro => Mode::Ro,
        settings::Mode::Any => Mode::Any,
    }
}

fn aliases(settings: &Settings) -> BTreeMap<String, Alias> {
    let alias = |alias: &settings::Alias| match alias {
        settings::Alias::Target(means) => Alias { means: means.clone(), system: None },
        settings::Alias::Of(of) => Alias { means: of.target.clone(), system: Some(of.system.clone()) },
    };
    settings.names.aliases.iter().map(|(name, means)| (name.clone(), alias(means))).collect()
}

/// The user who runs this process: what libpq sends where nobody typed a user.
fn os_user() -> Option<String> {
    let uid = rustix::process::getuid().as_raw().to_string();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let line = passwd.lines().find(|line| line.split(':').nth(2) == Some(&uid));
    let name = line.and_then(|line| line.split(':').next()).map(str::to_owned);
    // Directory services are not in the file; the login shell's variable is.
    name.or_else(|| std::env::var("USER").ok()).filter(|name| !name.is_empty())
}

/// What the configuration holds of a password.
///
/// # Errors
/// Where it cannot be a password, or the system gives no random bytes.
pub fn verifier(password: &SecretString) -> Result<String, MakeError> {
    Verifier::make(password, LEAST_ITERATIONS)
}
