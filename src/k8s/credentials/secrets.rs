//! Logins from Secrets: the seam's `Credentials`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{
    error::{ClientFacing as _, Report, SqlState},
    k8s::{
        api::{contexts::Contexts, error::K8sError, names, reader::Reader, single_flight::Readings},
        cluster::{
            overrides::Overrides,
            read,
            recent::{Caller, Recent, tidy},
        },
        credentials::{owners, parts::Logins, refusals::no_login},
        operators::registry::Systems,
    },
    upstream::{Ask, ClusterId, Credentials, Failure, Found, Login, Retry, Role, Upstream},
};

/// How long a role is left alone after two refusals with the same Secret: servers lock roles, and log every try.
const LEFT_ALONE: Duration = Duration::from_secs(30);

/// Whose login is read, where, for which role, or for the owner of which database.
type ReadingKey = (Caller, ClusterId, Role, Option<String>);

/// A login, as a key of what is remembered: on whose behalf, cluster, source and role.
type Refused = (Caller, ClusterId, String, String);

fn refused_key(caller: Caller, cluster: &ClusterId, login: &Login) -> Refused {
    (caller, cluster.clone(), login.source.clone(), login.user.clone())
}

/// Secrets whose passwords a server has refused, by their name and the role.
#[derive(Debug, Default)]
struct Refusals(Mutex<HashMap<Refused, Refusal>>);

#[derive(Clone, Debug)]
struct Refusal {
    version: String,
    at: Instant,
    times: u32,
}

impl Refusals {
    /// Notes that the login was refused, and its Secret has not changed.
    fn note(&self, caller: Caller, cluster: &ClusterId, login: &Login) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, refusal| refusal.at.elapsed() < LEFT_ALONE);
        let key = refused_key(caller, cluster, login);
        let before =
            all.get(&key).filter(|refusal| refusal.version == login.version).map_or(0, |refusal| refusal.times);
        all.insert(key, Refusal { version: login.version.clone(), at: Instant::now(), times: before + 1 });
    }

    /// Refuses a login that was refused twice a moment ago.
    fn check(&self, caller: Caller, cluster: &ClusterId, login: &Login) -> Result<(), Report> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(refusal) = all.get(&refused_key(caller, cluster, login)) else {
            return Ok(());
        };
        let rest = LEFT_ALONE.saturating_sub(refusal.at.elapsed());
        if refusal.version != login.version || rest.is_zero() || refusal.times < 2 {
            return Ok(());
        }
        Err(Report::fatal(
            SqlState::INVALID_PASSWORD,
            format!("the server refused the password of {} in {}", login.user, login.source),
        )
        .detail(format!("It is not tried again for {} s, or until the Secret changes.", rest.as_secs() + 1))
        .hint("If the role's password was changed in the database, change it in the Secret too"))
    }
}

/// The logins that Secrets hold.
#[derive(Debug)]
pub struct SecretCredentials {
    contexts: Arc<Contexts>,
    systems: Arc<Systems>,
    clusters: Arc<Overrides>,
    recent: Arc<Recent>,
    refusals: Refusals,
    readings: Readings<ReadingKey, Login, Failure>,
    /// The last login that a server took, for the moment between a new Secret and the server that knows it.
    worked: Mutex<HashMap<WorkedKey, Login>>,
}

#[async_trait]
impl Credentials for SecretCredentials {
    async fn login(&self, ask: &Ask, upstream: &Upstream) -> Result<Login, Failure> {
        // Whoever names no role gets the owner of the database.
        let database = ask.database.clone().filter(|_| ask.role == Role::Default);
        let key = (caller(upstream), upstream.cluster.clone(), ask.role.clone(), database);
        let login = self
            .readings
            .join(key, ask.deadline, Box::pin(self.find_login(ask, (&upstream.cluster, upstream.meaning))))
            .await?;
        self.refusals.check(caller(upstream), &upstream.cluster, &login)?;
        Ok(login)
    }

    async fn check(&self, ask: &Ask, found: &Found) -> Result<Option<String>, Failure> {
        let login = self.find_login(ask, (&found.cluster, found.meaning)).await;
        match ask.role {
            Role::Named(_) => login.map(|login| Some(login.user)),
            // An operator makes the default login's Secret with the cluster: it may be as late as the servers.
            Role::Default => Ok(login.ok().map(|login| login.user)),
        }
    }

    async fn fresh_login(&self, ask: &Ask, upstream: &Upstream, refused: &Login) -> Result<Option<Login>, Failure> {
        let login = self.find_login(ask, (&upstream.cluster, upstream.meaning)).await?;
        if login.source != refused.source || login.version != refused.version {
            return Ok(Some(login));
        }
        let before = self.worked().get(&worked_key(ask, upstream, &login)).cloned();
        // Two roles may have their passwords in one Secret: nobody becomes the other.
        let before = before.filter(|before| before.user == login.user && before.version != login.version);
        if let Some(before) = before {
            return Ok(Some(before));
        }
        self.refusals.note(caller(upstream), &upstream.cluster, refused);
        Ok(None)
    }

    fn accepted(&self, ask: &Ask, upstream: &Upstream, login: &Login) {
        let key = worked_key(ask, upstream, login);
        let mut worked = self.worked();
        if worked.get(&key).is_none_or(|before| before.version != login.version) {
            tidy(&mut worked);
            worked.insert(key, login.clone());
        }
    }

    fn refused(&self, ask: &Ask, upstream: &Upstream, login: &Login) {
        // What worked once does not any more: the next refusal of what the Secret says counts.
        self.worked().remove(&worked_key(ask, upstream, login));
    }
}

/// Whose login, where, and from which Secret.
type WorkedKey = (Caller, ClusterId, String, Role);

fn worked_key(ask: &Ask, upstream: &Upstream, login: &Login) -> WorkedKey {
    (caller(upstream), upstream.cluster.clone(), login.source.clone(), ask.role.clone())
}

/// On whose behalf it was resolved.
fn caller(upstream: &Upstream) -> Caller {
    Caller { meaning: upstream.meaning, credential: upstream.credential }
}

impl SecretCredentials {
    /// Over these contexts; `recent` is what resolving has read.
    #[must_use]
    pub fn new(contexts: Arc<Contexts>, systems: Arc<Systems>, clusters: Arc<Overrides>, recent: Arc<Recent>) -> Self {
        Self {
            contexts,
            systems,
            clusters,
            recent,
            refusals: Refusals::default(),
            readings: Readings::default(),
            worked: Mutex::default(),
        }
    }

    fn worked(&self) -> MutexGuard<'_, HashMap<WorkedKey, Login>> {
        self.worked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn find_login(&self, ask: &Ask, (cluster, meaning): (&ClusterId, u64)) -> Result<Login, Failure> {
        let context = self.contexts.get(Some(&cluster.context), Some(&ask.progress)).await?;
        if context.meaning() != meaning {
            // A Secret of one cluster is for no server of another.
            let report = K8sError::OtherCluster { context: context.name().to_owned() }.report();
            return Err(Failure { report, retry: Retry::Resolve });
        }
        let reader = Reader::new(&context, ask.deadline);
        let view = if let Some(view) = self.recent.of(&context, cluster) {
            view
        } else {
            let (namespace, name) = names::place(cluster).map_err(K8sError::from)?;
            let place = (&namespace, &name);
            let view = match self.systems.named(&cluster.system) {
                Some(system) => read::view(reader, &self.systems, system, place).await?,
                None => None,
            };
            let view = view.ok_or_else(|| no_login(&cluster.to_string(), &[]))?;
            Arc::new(self.clusters.with_configured_secret(ask, &context, view))
        };
        let logins = Logins { reader, view: &view };
        match (&ask.role, &ask.database) {
            (Role::Default, Some(database)) => match owners::login(&logins, database).await? {
                Some(login) => Ok(login),
                None => logins.default().await,
            },
            (Role::Default, None) => logins.default().await,
            (Role::Named(role), _) => logins.named(role).await,
        }
    }
}
