//! What types cannot say.

use std::{net::IpAddr, time::Duration};

use super::{
    auth::{Access, Auth, Method, Policy},
    keys::{External, Http, Kubernetes, Listen, Sessions, Settings, Tls},
};

/// All problems at once.
pub(super) fn check(settings: &Settings) -> Vec<String> {
    let mut problems = listen(&settings.listen, &settings.auth);
    problems.extend(http(&settings.http, &settings.listen));
    problems.extend(auth(&settings.auth, &settings.access));
    if !may_do_without_files(settings) {
        problems.push(
            "auth.methods needs listen.tls = \"files\": clients must know to whom they send their proof".to_owned(),
        );
    }
    problems.extend(kubernetes(&settings.kubernetes));
    problems.extend(sessions(&settings.sessions));
    for (cluster, about) in &settings.clusters {
        if about.scram_iterations == Some(0) {
            problems.push(format!("clusters.\"{cluster}\".scram_iterations must be 1 or more"));
        }
    }
    let unqualified = settings.systems.iter().filter(|system| !system.resource.contains('.'));
    problems.extend(unqualified.map(|system| {
        format!(
            "systems: resource = \"{}\" of {} needs its group, such as clusters.example.com",
            system.resource, system.name
        )
    }));
    // A database's name is not empty, and a startup packet ends it with a zero.
    let never = settings.names.aliases.keys().filter(|alias| alias.is_empty() || alias.contains('\0'));
    problems.extend(never.map(|alias| format!("names.aliases: no client can ask for the database {alias:?}")));
    problems
}

/// On loopback a password of `[auth.logins]` is proved without being shown; all else needs a certificate that clients know.
fn may_do_without_files(settings: &Settings) -> bool {
    let (listen, methods) = (&settings.listen, &settings.auth.methods);
    let near = listen.addresses.iter().all(IpAddr::is_loopback);
    listen.tls == Tls::Files || (near && methods.iter().all(|method| *method == Method::Login))
}

fn listen(listen: &Listen, auth: &Auth) -> Vec<String> {
    let far = listen.addresses.iter().filter(|address| !address.is_loopback() && auth.methods.is_empty());
    let mut problems: Vec<String> = far
        .map(|address| {
            format!("listen.addresses: {address} is no loopback address; a listener there needs auth.methods")
        })
        .collect();
    if !auth.methods.is_empty() && listen.socket_dir.is_some() {
        problems.push("listen.socket_dir: with auth.methods no client is served over a Unix socket".to_owned());
    }
    let unclear = listen.proxy_protocol.iter().filter(|text| network(text).is_none());
    problems.extend(unclear.map(|text| format!("listen.proxy_protocol: \"{text}\" is no network such as 10.0.0.0/8")));
    if auth.methods.is_empty() && !listen.proxy_protocol.is_empty() {
        problems.push("listen.proxy_protocol needs auth.methods: else a client is whoever the system says".to_owned());
    }
    let has_both = listen.tls_cert.is_some() && listen.tls_key.is_some();
    if listen.tls == Tls::Files && !has_both {
        problems.push("listen.tls = \"files\" needs listen.tls_cert and listen.tls_key".to_owned());
    }
    if listen.tls != Tls::Files && (listen.tls_cert.is_some() || listen.tls_key.is_some()) {
        problems.push("listen.tls_cert and listen.tls_key are used only with listen.tls = \"files\"".to_owned());
    }
    if listen.addresses.is_empty() && listen.socket_dir.is_none() {
        problems.push("listen.addresses is empty and listen.socket_dir too: nothing to listen on".to_owned());
    }
    if listen.port != 0 && listen.bindings.contains_key(&listen.port) {
        problems.push(format!("listen.bindings: port {} is listen.port already", listen.port));
    }
    problems
}

fn http(http: &Http, listen: &Listen) -> Option<String> {
    let port = http.listen?.port();
    // A Unix socket has the number in its name alone.
    let taken = !listen.addresses.is_empty() && (port == listen.port || listen.bindings.contains_key(&port));
    (port != 0 && taken).then(|| format!("http.listen: port {port} is one for PostgreSQL clients already"))
}

fn auth(auth: &Auth, access: &[Access]) -> Vec<String> {
    let has = |method| auth.methods.contains(&method);
    let mut problems = Vec::new();
    let mut demand = |holds: bool, what: &str| {
        if !holds {
            problems.push(what.to_owned());
        }
    };
    demand(
        has(Method::Certificate) == auth.client_ca.is_some(),
        "auth.client_ca and the method \"certificate\" need each other",
    );
    demand(has(Method::Login) != auth.logins.is_empty(), "[auth.logins] and the method \"login\" need each other");
    demand(!has(Method::Login) || !auth.login_prefix.is_empty(), "auth.login_prefix must not be empty");
    demand(!auth.login_prefix.contains('@'), "auth.login_prefix must not hold @");
    demand(
        auth.authority == Policy::Rbac || !access.is_empty(),
        "auth.authority = \"rules\" needs [[access]]: without a rule nobody may connect",
    );
    demand(
        auth.authority == Policy::Rbac || !auth.methods.is_empty(),
        "auth.authority = \"rules\" needs auth.methods: without them nobody is asked about",
    );
    let named = access.iter().any(|rule| !rule.people.is_empty() || !rule.groups.is_empty());
    demand(
        !named || !auth.methods.is_empty(),
        "[[access]]: people and groups are known only where auth.methods is set, so that these rules can never fit",
    );
    demand(access.iter().all(|rule| !rule.targets.is_empty()), "[[access]]: each rule needs targets");
    for name in auth.logins.keys().filter(|name| name.is_empty() || name.contains(['@', '\0'])) {
        problems.push(format!("auth.logins: no client can have the name {name:?}"));
    }
    problems.extend(nothing(&[("auth.recheck", auth.recheck), ("auth.session_max", auth.session_max)]));
    problems
}

fn kubernetes(kubernetes: &Kubernetes) -> Vec<String> {
    let mut problems = Vec::new();
    for (short, context) in &kubernetes.contexts {
        if short.contains(['@', ':', '/', '~']) || context.is_empty() {
            problems.push(format!("kubernetes.contexts: \"{short}\" must hold none of @ : / ~ and mean a context"));
        }
    }
    if let External::Only(servers) = &kubernetes.external {
        let unclear = servers.iter().filter(|server| host_and_port(server).is_none());
        problems.extend(unclear.map(|server| format!("kubernetes.external: \"{server}\" is no host:port")));
    }
    let unclear = kubernetes.external_names.iter().filter(|name| !name.contains('.'));
    problems.extend(unclear.map(|name| format!("kubernetes.external_names: \"{name}\" is no SERVICE.NAMESPACE")));
    if kubernetes.dead_after <= kubernetes.ping_after {
        problems.push("kubernetes.dead_after must be longer than kubernetes.ping_after".to_owned());
    }
    problems.extend(nothing(&[
        ("kubernetes.request_timeout", kubernetes.request_timeout),
        ("kubernetes.connect_timeout", kubernetes.connect_timeout),
        ("kubernetes.exec_timeout", kubernetes.exec_timeout),
        ("kubernetes.ping_after", kubernetes.ping_after),
        ("kubernetes.remind_after", kubernetes.remind_after),
    ]));
    problems
}

fn sessions(sessions: &Sessions) -> Vec<String> {
    let limits = [("max_connections", sessions.max_connections), ("max_startups", sessions.max_startups)];
    let none = limits.iter().filter(|(_, limit)| *limit == 0);
    let mut problems: Vec<String> = none.map(|(name, _)| format!("sessions.{name} must be 1 or more")).collect();
    problems.extend(nothing(&[
        ("sessions.startup_deadline", sessions.startup_deadline),
        ("sessions.connect_timeout", sessions.connect_timeout),
    ]));
    problems
}

/// Times in which nothing can be done.
fn nothing(times: &[(&str, Duration)]) -> Vec<String> {
    let zero = times.iter().filter(|(_, time)| time.is_zero());
    zero.map(|(name, _)| format!("{name} must be longer than nothing")).collect()
}

/// `address/bits`; no bit behind those is set, and an IPv4 address is written as one.
#[must_use]
pub fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let (address, bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
    let (zeros, width): (u32, u32) = match address {
        IpAddr::V4(ip) => (ip.to_bits().trailing_zeros(), 32),
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => return None,
        IpAddr::V6(ip) => (ip.to_bits().trailing_zeros(), 128),
    };
    let free = width.checked_sub(u32::from(bits))?;
    (zeros >= free).then_some((address, bits))
}

/// `host:port`, an IPv6 address in brackets.
#[must_use]
pub fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty()).then_some((host, port))
}
