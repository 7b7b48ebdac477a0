//! Zalando's postgres-operator (<https://github.com/zalando/postgres-operator>, `pkg/apis/acid.zalan.do/v1`,
//! `pkg/util/config/config.go`). Its administrator may have changed labels and the Secrets' names.

use std::borrow::Cow;

use super::{
    facts::POSTGRES,
    facts::{CaSource, Facts, Members, OwnedDatabase, Tls},
    leader::LeaderSource,
    login::{Keys, LoginKind, LoginSource, Part},
    system::{Labels, Member, PodLabels, System, by_role, sized},
};
use crate::k8s::api::{
    names::{Namespace, ObjectName, Reference},
    objects::{Object, Pod},
    resource::Resource,
};

/// What the operator's own configuration can change; these are its names for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZalandoParams {
    /// How Secrets are called: `{username}`, `{cluster}`, `{tprkind}` and `{tprgroup}` are replaced.
    pub secret_name_template: String,
    /// Labels of every object, as `name:value,name:value`.
    pub cluster_labels: Vec<(String, String)>,
    /// The label that holds the cluster's name.
    pub cluster_name_label: String,
    /// The label that says master or replica.
    pub pod_role_label: String,
    /// The superuser.
    pub super_username: String,
    /// Whether a role `namespace.user` has its Secret in that namespace.
    pub cross_namespace_secrets: bool,
}

impl Default for ZalandoParams {
    fn default() -> Self {
        Self {
            secret_name_template: "{username}.{cluster}.credentials.{tprkind}.{tprgroup}".to_owned(),
            cluster_labels: vec![("application".to_owned(), "spilo".to_owned())],
            cluster_name_label: "cluster-name".to_owned(),
            pod_role_label: "spilo-role".to_owned(),
            super_username: POSTGRES.to_owned(),
            cross_namespace_secrets: false,
        }
    }
}

const GROUP: &str = "acid.zalan.do";
/// Roles of the operator's own that nobody logs in as.
const OWN_ROLES: [&str; 3] = ["standby", "pooler", "fes_user"];

#[derive(Debug)]
pub(super) struct Zalando(ZalandoParams);

impl Zalando {
    pub(super) fn new(params: ZalandoParams) -> Self {
        Self(params)
    }

    /// A role's login; `field` is where the role is named.
    fn login(&self, cluster: &str, (role, field): (&str, &'static str), database: &str) -> LoginSource {
        let superuser = role == self.0.super_username;
        let kind = if superuser { LoginKind::Superuser } else { LoginKind::Managed };
        // With cross-namespace Secrets a role is called `namespace.user`, and its Secret is there. Whoever names the role
        // need not be allowed to read there, so that it is the configuration that says so.
        let elsewhere = role.split_once('.').filter(|_| self.0.cross_namespace_secrets);
        let secret = Reference::new(&self.secret(cluster, role), field);
        LoginSource {
            namespace: elsewhere.and_then(|(namespace, _)| Namespace::parse(namespace).ok()),
            rotates: true,
            ..LoginSource::new(kind, Some(role), Some(secret), keys(), database)
        }
    }

    fn secret(&self, cluster: &str, role: &str) -> String {
        self.0
            .secret_name_template
            .replace("{username}", &role.replace('_', "-"))
            .replace("{cluster}", cluster)
            .replace("{tprkind}", "postgresql")
            .replace("{tprgroup}", GROUP)
    }

    fn facts(&self, facts: Facts, object: &Object) -> Facts {
        let name = facts.name.clone();
        let databases = databases(object, &name);
        let main = main_database(&databases, &name);
        let mut logins: Vec<LoginSource> = Vec::new();
        if let Some(Owned { database, owner, field }) = main.filter(|main| !has_flag(object, &main.owner, "nologin")) {
            let login = self.login(&name, (owner, field), database);
            let kind = if login.kind == LoginKind::Managed { LoginKind::Application } else { login.kind };
            logins.push(LoginSource { kind, ..login });
        }
        let database = main.map_or(POSTGRES, |main| &main.database);
        let owners = databases.iter().map(|owned| (owned.owner.clone(), owned.field, owned.database.as_str()));
        let users = object.keys("/users").map(|role| (role.to_owned(), "spec.users", database));
        let prepared = prepared_users(object, &name);
        let prepared = prepared.iter().map(|(role, database)| (role.clone(), PREPARED, database.as_str()));
        for (role, field, database) in owners.chain(users).chain(prepared) {
            let known = logins.iter().any(|login| login.role.as_deref() == Some(&role));
            if !known && !OWN_ROLES.contains(&role.as_str()) && !has_flag(object, &role, "nologin") {
                logins.push(self.login(&name, (&role, field), database));
            }
        }
        if !logins.iter().any(|login| login.kind == LoginKind::Superuser) {
            logins.push(self.login(&name, (&self.0.super_username, "zalando.super_username"), POSTGRES));
        }
        for login in &mut logins {
            if login.role.as_ref().is_some_and(|role| has_flag(object, role, "superuser")) {
                login.kind = LoginKind::Superuser;
            }
        }
        // Version 1 of the operator makes MD5 of passwords, whatever the server's version, unless it is told otherwise.
        let encryption = object.spec("/postgresql/parameters/password_encryption");
        Facts {
            md5: encryption.is_none_or(|encryption| encryption == "md5"),
            logins,
            owned: databases
                .iter()
                .map(|it| OwnedDatabase { database: it.database.clone(), owner: it.owner.clone() })
                .collect(),
            databases: databases.into_iter().map(|owned| owned.database).collect(),
            ..facts
        }
    }
}

fn keys() -> Keys {
    Keys::Named { user: Part::keys(&["username"]), password: Part::keys(&["password"]), database: Part::Absent }
}

/// Databases and who owns them; prepared ones belong to a role that logs in only where there are default users.
fn databases(object: &Object, cluster: &str) -> Vec<Owned> {
    let map = object.spec.pointer("/databases").and_then(serde_json::Value::as_object);
    let plain = map.into_iter().flatten().filter_map(|(name, owner)| {
        Some(Owned { database: name.clone(), owner: owner.as_str()?.to_owned(), field: "spec.databases" })
    });
    let prepared = prepared(object, cluster).into_iter().filter(|(_, users)| *users);
    let prepared = prepared.map(|(name, _)| {
        let owner = format!("{name}_owner_user");
        Owned { database: name, owner, field: PREPARED }
    });
    plain.chain(prepared).collect()
}

/// A database, who owns it, and which field says so.
struct Owned {
    database: String,
    owner: String,
    field: &'static str,
}

const PREPARED: &str = "spec.preparedDatabases";

/// Prepared databases, and whether they have users who log in. An empty map is one database, called as the cluster.
fn prepared(object: &Object, cluster: &str) -> Vec<(String, bool)> {
    let Some(map) = object.spec.pointer("/preparedDatabases").and_then(serde_json::Value::as_object) else {
        return Vec::new();
    };
    if map.is_empty() {
        return vec![(cluster.replace('-', "_"), false)];
    }
    let users =
        |about: &serde_json::Value| about.get("defaultUsers").and_then(serde_json::Value::as_bool).unwrap_or_default();
    map.iter().map(|(name, about)| (name.clone(), users(about))).collect()
}

fn prepared_users(object: &Object, cluster: &str) -> Vec<(String, String)> {
    let with_users = prepared(object, cluster).into_iter().filter(|(_, users)| *users);
    let users = |(name, _): (String, bool)| {
        ["owner", "reader", "writer"].map(|part| (format!("{name}_{part}_user"), name.clone()))
    };
    with_users.flat_map(users).collect()
}

/// The only one of `spec.databases`, whatever is prepared beside it; else the only one at all, or the one that is called as
/// the cluster. Of several others none is anybody's default.
fn main_database<'a>(databases: &'a [Owned], cluster: &str) -> Option<&'a Owned> {
    let mut plain = databases.iter().filter(|owned| owned.field != PREPARED);
    match (plain.next(), plain.next(), databases) {
        (Some(only), None, _) | (None, None, [only]) => Some(only),
        _ => databases.iter().find(|owned| owned.database == cluster || owned.database == cluster.replace('-', "_")),
    }
}

fn has_flag(object: &Object, role: &str, wanted: &str) -> bool {
    let flags = object.spec.pointer("/users").and_then(|users| users.get(role)).and_then(serde_json::Value::as_array);
    flags.into_iter().flatten().any(|flag| flag.as_str().is_some_and(|flag| flag.eq_ignore_ascii_case(wanted)))
}

/// The server's certificate is the operator's own, for a name that is nobody's, until somebody brings one.
fn tls(object: &Object) -> Tls {
    let file = object.spec("/tls/caFile").unwrap_or("ca.crt");
    let secret = object.spec("/tls/caSecretName").or_else(|| object.spec("/tls/secretName"));
    Tls {
        ca: secret
            .map(|secret| CaSource::Secret(Reference::new(secret, "spec.tls"), file.to_owned()))
            .into_iter()
            .collect(),
        ..Tls::default()
    }
}

fn services(name: &str) -> Vec<String> {
    ["", "-repl", "-pooler", "-pooler-repl"].iter().map(|suffix| format!("{name}{suffix}")).collect()
}

impl System for Zalando {
    fn name(&self) -> &'static str {
        "zalando"
    }

    fn resource(&self) -> Resource {
        Resource::new(GROUP, "v1", "postgresqls")
    }

    /// Pooler pods carry the cluster's name and the master's role too, under another `application`.
    fn pod_labels(&self) -> Option<PodLabels> {
        let others = self.0.cluster_labels.iter();
        Some(PodLabels {
            cluster: Cow::Owned(self.0.cluster_name_label.clone()),
            others: others.map(|(name, value)| (Cow::Owned(name.clone()), Some(Cow::Owned(value.clone())))).collect(),
            without: &["connection-pooler"],
        })
    }

    fn is_pooler(&self, labels: &Labels) -> bool {
        labels.contains_key("connection-pooler")
    }

    /// Whatever the operator's own labels are configured to be, its images run Spilo.
    fn tends(&self, labels: &Labels) -> bool {
        self.is_pooler(labels) || labels.get("application").is_some_and(|application| application == "spilo")
    }

    fn read(&self, object: &Object) -> Option<Facts> {
        let meta = &object.metadata;
        let facts = Facts::of(object, &meta.name, Members::Labelled);
        let facts = sized(facts, &self.resource(), object, "numberOfInstances");
        let facts = Facts {
            standby: object.spec.pointer("/standby").is_some_and(|standby| !standby.is_null()),
            phase: object.status("/PostgresClusterStatus").unwrap_or_default().to_owned(),
            tls: tls(object),
            services: services(&meta.name),
            ..facts
        };
        Some(self.facts(facts, object))
    }

    fn guess(&self, namespace: &Namespace, name: &ObjectName) -> Option<Facts> {
        let facts = Facts { services: services(name), ..Facts::new(namespace, name, Members::Labelled) };
        Some(self.facts(facts, &Object::unread(namespace, name)))
    }

    fn member(&self, _facts: &Facts, pod: &Pod) -> Member {
        by_role(pod.metadata.label(&self.0.pod_role_label))
    }

    fn leader_sources(&self, name: &ObjectName) -> Vec<LeaderSource> {
        // Where Patroni uses ConfigMaps, the Endpoints are made from labels and say nothing of their own.
        vec![LeaderSource::ConfigMap(name.with("-leader")), LeaderSource::Endpoints(name.clone())]
    }

    fn login_of(&self, facts: &Facts, role: &str) -> Option<LoginSource> {
        let database = facts.logins.first().map_or(POSTGRES, |login| login.database.as_str());
        Some(self.login(&facts.name, (role, "the user's name"), database))
    }

    fn is_own_role(&self, role: &str) -> bool {
        OWN_ROLES.contains(&role)
    }

    fn login_secrets(&self, facts: &Facts) -> Option<(String, LoginSource)> {
        let labels = self.pod_labels()?;
        let database = facts.logins.first().map_or(POSTGRES, |login| login.database.as_str());
        let source = LoginSource::new(LoginKind::Managed, None, None, keys(), database);
        Some((labels.selector_of([&facts.name]), source))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(spec: &Value) -> Facts {
        let object = json!({"metadata": {"name": "web-shop", "namespace": "prod"}, "spec": spec});
        let zalando = Zalando::new(ZalandoParams::default());
        zalando.read(&serde_json::from_value(object).expect("an object")).expect("facts")
    }

    fn logins(spec: &Value) -> Vec<(String, String, LoginKind)> {
        let logins = read(spec).logins.into_iter();
        logins.map(|login| (login.role.unwrap_or_default(), login.database, login.kind)).collect()
    }

    fn of(role: &str, database: &str, kind: LoginKind) -> (String, String, LoginKind) {
        (role.to_owned(), database.to_owned(), kind)
    }

    #[test]
    fn the_default_is_the_owner_of_the_main_database() {
        let only =
            json!({"databases": {"books": "clerk"}, "users": {"clerk": [], "group": ["NOLOGIN"], "bi_user": []}});
        assert_eq!(
            logins(&only),
            [
                of("clerk", "books", LoginKind::Application),
                of("bi_user", "books", LoginKind::Managed),
                of("postgres", "postgres", LoginKind::Superuser)
            ]
        );
        let several = json!({"databases": {"a": "x", "web_shop": "y"}});
        assert_eq!(logins(&several).first(), Some(&of("y", "web_shop", LoginKind::Application)));
        assert_eq!(logins(&json!({})), [of("postgres", "postgres", LoginKind::Superuser)]);
        assert_eq!(logins(&json!({"databases": "wrong", "users": 7})).len(), 1);
    }

    #[test]
    fn prepared_databases_have_users_of_their_own() {
        let prepared = json!({"preparedDatabases": {"foo": {"defaultUsers": true}, "bar": {}}});
        let roles: Vec<String> = logins(&prepared).into_iter().map(|(role, _, _)| role).collect();
        assert_eq!(roles, ["foo_owner_user", "foo_reader_user", "foo_writer_user", "postgres"]);
    }

    #[test]
    fn databases_have_owners_and_one_by_manifest_is_the_default() {
        let both =
            json!({"databases": {"app": "clerk"}, "preparedDatabases": {"bar": {"defaultUsers": true}, "foo": {}}});
        let facts = read(&both);
        let owners = ["app", "bar", "foo", "postgres"].map(|database| facts.owner_of(database));
        assert_eq!(owners, [Some("clerk"), Some("bar_owner_user"), None, None]);
        assert_eq!(logins(&both).first(), Some(&of("clerk", "app", LoginKind::Application)));
        let named = json!({"databases": {"app": "clerk"}, "preparedDatabases": {"web_shop": {"defaultUsers": true}}});
        assert_eq!(logins(&named).first(), Some(&of("clerk", "app", LoginKind::Application)));
        let prepared = json!({"preparedDatabases": {"bar": {"defaultUsers": true}}});
        assert_eq!(logins(&prepared).first(), Some(&of("bar_owner_user", "bar", LoginKind::Application)));
        let silent = json!({"databases": {"app": "group"}, "users": {"group": ["NOLOGIN"], "bi_user": []}});
        assert_eq!(logins(&silent).first(), Some(&of("bi_user", "app", LoginKind::Managed)));
    }

    #[test]
    fn secrets_have_computed_names() {
        let facts = read(&json!({"databases": {"books": "the_clerk"}}));
        let secret = facts.logins.first().and_then(|login| login.secret.as_ref()).map(Reference::shown);
        assert_eq!(secret, Some("the-clerk.web-shop.credentials.postgresql.acid.zalan.do"));
        let zalando = Zalando::new(ZalandoParams {
            secret_name_template: "{cluster}-{username}-login".to_owned(),
            cross_namespace_secrets: true,
            ..ZalandoParams::default()
        });
        let login = zalando.login_of(&facts, "appspace.db_user").expect("a login");
        assert_eq!(
            (login.secret.as_ref().map(Reference::shown), login.namespace.as_deref()),
            (Some("web-shop-appspace.db-user-login"), Some("appspace"))
        );
    }

    #[test]
    fn running_without_instances_is_not_running() {
        assert_eq!(read(&json!({"numberOfInstances": 0})).halt.map(|halt| halt.state), Some("scaled to zero"));
        assert!(read(&json!({"standby": {"standby_host": "x"}})).standby);
    }
}
