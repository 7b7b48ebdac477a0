//! What turns settings into the parameters of layers.

use std::{collections::BTreeMap, fs, sync::Arc};

use anyhow::Context as _;
use secrecy::ExposeSecret as _;

use crate::{
    audit::{self, Audit, Sink},
    auth::client::{Account, Logins, Methods},
    k8s::{
        api::{connection::ClientParams, contexts::Contexts},
        cluster::{
            overrides::{ClusterParams, Overrides, TlsOverride},
            recent::Recent,
            reflector::WatchParams,
        },
        credentials::secrets::SecretCredentials,
        dial::{dialer::Transport, tunnel::Liveness},
        directory::{
            external::External,
            resolve::{DirectoryParams, Kubernetes},
        },
        operators::{
            configured::Layout,
            registry::{Systems, SystemsParams},
            zalando::ZalandoParams,
        },
    },
    server::listen,
    session::{
        OnFailure, Params,
        network::Network,
        permit::{
            self, PermitParams,
            rules::{Bounds, Pattern, Rule, Rules},
        },
        registry::Limits,
        route::{Alias, Names},
        target::parse_target,
    },
    settings::{self, Authority, ClusterAuth, Settings, SslMode, Tls, host_and_port, network},
    tls::accept::ClientTls,
    upstream::{AuthMethod, Mode, Review, TlsMode},
};

/// One address may have a quarter of `sessions.max_startups` who have not proved who they are: it takes four that mean harm
/// to keep others out, and a pool behind one address still opens many at a time.
const UNPROVED_SHARE: usize = 4;

pub(super) fn listeners(settings: &Settings) -> anyhow::Result<Vec<listen::Bound>> {
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

pub(super) fn client_tls(settings: &Settings) -> ClientTls {
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
pub(super) fn kubernetes(settings: &Settings) -> (Arc<Contexts>, Kubernetes, SecretCredentials) {
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

pub(super) fn liveness(settings: &Settings) -> Liveness {
    let kubernetes = &settings.kubernetes;
    Liveness {
        ping_after: kubernetes.ping_after,
        dead_after: kubernetes.dead_after,
        remind_after: kubernetes.remind_after,
    }
}

pub(super) fn transport(settings: &Settings) -> Transport {
    match settings.kubernetes.transport {
        settings::Transport::PortForward => Transport::PortForward,
        settings::Transport::Direct => Transport::Direct,
    }
}

pub(super) fn session_params(settings: &Settings) -> Params {
    let sessions = &settings.sessions;
    Params {
        startup_deadline: sessions.startup_deadline,
        proxies: proxies(settings),
        max_unproved: (sessions.max_startups / UNPROVED_SHARE).max(1),
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

/// `check` has looked at them.
fn proxies(settings: &Settings) -> Vec<Network> {
    let networks = settings.listen.proxy_protocol.iter().filter_map(|text| network(text));
    networks.map(|(address, bits)| Network { address, bits }).collect()
}

pub(super) fn limits(settings: &Settings) -> Limits {
    let sessions = &settings.sessions;
    Limits { all: sessions.max_connections, cluster: Some(sessions.max_per_cluster).filter(|limit| *limit > 0) }
}

/// Where events are kept.
pub(super) fn sinks(settings: &Settings) -> anyhow::Result<Audit> {
    let stdout = settings.audit.stdout.then_some(Sink::Stdout);
    let sinks: Vec<Sink> = stdout.into_iter().chain(settings.audit.file.clone().map(Sink::File)).collect();
    if sinks.is_empty() { Ok(Audit::off()) } else { Ok(Audit::new(audit::Params::default(), sinks)?) }
}

/// How clients prove who they are, where they must.
pub(super) fn methods(settings: &Settings, review: &Arc<dyn Review>) -> anyhow::Result<Option<Methods>> {
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
pub(super) fn permit_params(settings: &Settings) -> PermitParams {
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

pub(super) fn aliases(settings: &Settings) -> BTreeMap<String, Alias> {
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
