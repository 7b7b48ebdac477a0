//! Which of a cluster's logins is meant.

use crate::{
    error::Report,
    k8s::{
        api::{access::ListQuery, names::Reference, objects::Object, resource::SECRETS},
        cluster::snapshot::View,
        credentials::{
            parts::{Logins, is_role},
            refusals::{no_login, no_role, no_secret, not_the_role, of_a_replica_cluster, several, unread},
        },
        operators::{
            facts::POSTGRES,
            login::{LoginKind, LoginSource},
            marked,
        },
    },
    upstream::{Failure, Login},
};

/// Why what might have held a role's login did not give it, the first of each kind.
#[derive(Default)]
struct Missed {
    /// A Secret that should be there.
    absent: Option<Report>,
    /// One that could not be read.
    refused: Option<Failure>,
}

impl Logins<'_> {
    /// The application's login; where there is none, another role's; a superuser's last.
    pub(in crate::k8s) async fn default(&self) -> Result<Login, Failure> {
        let facts = &self.view.facts;
        let mut sources: Vec<&LoginSource> = facts.logins.iter().collect();
        sources.sort_by_key(|source| source.kind);
        let mut missing: Option<Failure> = None;
        let (mut listed, mut bereft) = (false, false);
        if let Some(roles) = equals(&facts.logins) {
            return Err(several(facts, &roles).into());
        }
        for source in sources {
            // The application's Secret should be there: nobody becomes another role because it is not.
            if bereft && source.kind != LoginKind::Application {
                break;
            }
            // Where the resource could not be read, Secrets that nothing names come before a superuser's.
            if source.kind == LoginKind::Superuser && facts.is_guessed() && !listed {
                listed = true;
                if let Some(login) = self.only_listed().await? {
                    return Ok(login);
                }
            }
            match self.read(source).await {
                Ok(Some(login)) => return Ok(login),
                // The next one is looked for, and if there is none, the first is what is reported.
                Ok(None) => {
                    bereft |= source.kind == LoginKind::Application && !facts.standby && !facts.is_guessed();
                    missing = missing.or_else(|| Some(no_secret(facts, source).into()));
                }
                Err(failure) => return Err(missing.unwrap_or(failure)),
            }
        }
        if !listed
            && !bereft
            && let Some(login) = self.only_listed().await?
        {
            return Ok(login);
        }
        let roles = if missing.is_none() || facts.standby {
            let marked = self.marked().await;
            self.known("", &marked).await
        } else {
            Vec::new()
        };
        match missing {
            Some(missing) if facts.standby && roles.is_empty() => Err(of_a_replica_cluster(facts, missing)),
            Some(missing) if !facts.standby => Err(missing),
            _ => Err(no_login(&facts.full(), &roles).into()),
        }
    }

    /// This role's login, or an error that says which roles have one.
    pub(in crate::k8s) async fn named(&self, role: &str) -> Result<Login, Failure> {
        let facts = &self.view.facts;
        let candidates = self.candidates(role).await;
        let mut missed = Missed::default();
        if let Some(login) = self.declared(role, &candidates, &mut missed).await? {
            return Ok(login);
        }
        // What the cluster's resource does not name: by the Secret's usual name, then by labels.
        if let Some(login) = self.usual(role, &candidates, &mut missed).await {
            return Ok(login);
        }
        let mut listed = self.listed().await;
        // A mark adds roles: it takes the place of nothing that the system names, and of nothing that could not be read.
        let names_it = candidates.iter().any(|source| source.role.as_deref() == Some(role));
        if !names_it && missed.refused.is_none() {
            listed.extend(self.marked().await);
        }
        for (source, object) in &listed {
            if let Ok(login) = self.held(source, object).await
                && is_role(&login.user, role, source)
            {
                return Ok(login);
            }
        }
        match (missed.absent, missed.refused) {
            (Some(absent), _) => Err(absent.into()),
            (None, Some(refused)) => Err(refused),
            (None, None) => {
                let report = no_role(&facts.full(), role, &self.known(role, &listed).await);
                Err(if facts.is_guessed() { unread(self.view, report) } else { report }.into())
            }
        }
    }

    /// The logins that may be this role's, as the operator's objects say.
    async fn candidates(&self, role: &str) -> Vec<LoginSource> {
        let may_be = |source: &&LoginSource| source.role.as_deref().is_none_or(|known| known == role);
        let mut candidates: Vec<LoginSource> = self.view.facts.logins.iter().filter(may_be).cloned().collect();
        // One whose Secret names the role itself is looked into last.
        candidates.sort_by_key(|source| source.role.is_none());
        if candidates.iter().all(|source| source.role.is_none()) {
            candidates.extend(self.more(role).await);
        }
        candidates
    }

    /// The one of these that is this role's.
    async fn declared(
        &self,
        role: &str,
        candidates: &[LoginSource],
        missed: &mut Missed,
    ) -> Result<Option<Login>, Failure> {
        let facts = &self.view.facts;
        for source in candidates {
            let found = match self.read(source).await {
                // What may be another role's is no reason to stop.
                Err(failure) if source.role.is_none() => {
                    missed.refused.get_or_insert(failure);
                    continue;
                }
                found => found?,
            };
            match found {
                Some(login) if is_role(&login.user, role, source) => return Ok(Some(login)),
                Some(login) if source.role.as_deref() == Some(role) => {
                    return Err(not_the_role(&login, role).into());
                }
                None if source.role.is_some() || !facts.is_guessed() => {
                    missed.absent.get_or_insert_with(|| no_secret(facts, source));
                }
                // A Secret whose role was not known before is another role's, or does not exist.
                Some(_) | None => {}
            }
        }
        Ok(None)
    }

    /// The login in the Secret that would usually be this role's, unless it was among those looked at.
    async fn usual(&self, role: &str, candidates: &[LoginSource], missed: &mut Missed) -> Option<Login> {
        let usual = self.view.system.login_of(&self.view.facts, role).filter(|source| !candidates.contains(source))?;
        usual.secret.as_ref()?.name().ok()?;
        match self.read(&usual).await {
            Ok(found) => found.filter(|login| is_role(&login.user, role, &usual)),
            Err(failure) => {
                missed.refused.get_or_insert(failure);
                None
            }
        }
    }

    /// The roles that have a login, but for this one.
    async fn known(&self, role: &str, listed: &[(LoginSource, Object)]) -> Vec<String> {
        let mut known: Vec<String> = Vec::new();
        for source in &self.view.facts.logins {
            match &source.role {
                Some(role) => known.push(role.clone()),
                None => known.extend(self.read(source).await.ok().flatten().map(|login| login.user)),
            }
        }
        for (source, object) in listed {
            known.extend(self.held(source, object).await.ok().map(|login| login.user));
        }
        let mut seen = std::collections::BTreeSet::new();
        known.retain(|known| known != role && seen.insert(known.clone()));
        known
    }

    /// Logins that the cluster's own resource does not name, and another of the operator's does.
    pub(super) async fn more(&self, role: &str) -> Vec<LoginSource> {
        let View { system, facts, .. } = self.view;
        let Some(resource) = system.more_logins() else {
            return Vec::new();
        };
        let namespace = Some(&facts.namespace);
        // An older operator has none, and a caller may not be allowed to look: then there are no more.
        let query = ListQuery::default();
        let found = self.reader.list::<Object>(&resource, namespace, &query).await;
        let objects = found.map(|(objects, _)| objects).unwrap_or_default();
        let sources = objects.iter().filter_map(|object| system.more_login(facts, object));
        sources.filter(|source| source.role.as_deref() == Some(role)).collect()
    }

    /// All Secrets that the operator's labels say belong to the cluster; none where the caller may not list them.
    async fn listed(&self) -> Vec<(LoginSource, Object)> {
        let View { system, facts, .. } = self.view;
        let Some((selector, source)) = system.login_secrets(facts) else { return Vec::new() };
        let named = |object: &Object| LoginSource {
            secret: Some(Reference::computed(&object.metadata.name)),
            ..source.clone()
        };
        self.list(selector).await.into_iter().map(|object| (named(&object), object)).collect()
    }

    /// Secrets that somebody has marked as holding a login for the cluster.
    async fn marked(&self) -> Vec<(LoginSource, Object)> {
        let facts = &self.view.facts;
        let database = facts.logins.first().map_or(POSTGRES, |login| login.database.as_str());
        let marked = self.list(marked::secrets_of(&facts.name)).await;
        marked.into_iter().map(|object| (marked::login(&object, database), object)).collect()
    }

    async fn list(&self, selector: String) -> Vec<Object> {
        let namespace = Some(&self.view.facts.namespace);
        let query = ListQuery::labels(selector);
        let found = self.reader.list::<Object>(&SECRETS, namespace, &query).await;
        found.map(|(objects, _)| objects).unwrap_or_default()
    }

    /// The login that a listed Secret holds.
    async fn held(&self, source: &LoginSource, object: &Object) -> Result<Login, Failure> {
        self.login(source, &object.data, object.metadata.resource_version.clone()).await
    }

    /// The one listed login that is an application's: the one that is called as the cluster, or the only one.
    async fn only_listed(&self) -> Result<Option<Login>, Report> {
        let View { system, facts, .. } = self.view;
        let listed = self.listed().await;
        let mut logins: Vec<Login> = Vec::new();
        for (source, object) in &listed {
            logins.extend(self.held(source, object).await);
        }
        let superuser = |login: &Login| {
            login.superuser
                || system.login_of(facts, &login.user).is_some_and(|known| known.kind == LoginKind::Superuser)
        };
        logins.retain(|login| !system.is_own_role(&login.user) && !superuser(login));
        logins.sort_by_key(|login| (facts.name != *login.user, login.user.clone()));
        match logins.as_slice() {
            [first, _, ..] if facts.name != *first.user => {
                let roles: Vec<&str> = logins.iter().map(|login| login.user.as_str()).collect();
                let report = several(facts, &roles);
                let resource = system.resource();
                let right = format!("get {} in namespace {}", resource.qualified(), facts.namespace);
                let hint = format!("{}; or ask for the right to {right}", report.hint.clone().unwrap_or_default());
                Err(report.hint(hint))
            }
            _ => Ok(logins.into_iter().next()),
        }
    }
}

/// The roles of several logins of which none is the application's, so that none is anybody's default.
fn equals(logins: &[LoginSource]) -> Option<Vec<&str>> {
    let of = |kind: LoginKind| logins.iter().filter(move |source| source.kind == kind);
    let undecided = of(LoginKind::Application).next().is_none() && of(LoginKind::Managed).count() > 1;
    undecided.then(|| of(LoginKind::Managed).filter_map(|source| source.role.as_deref()).collect())
}
