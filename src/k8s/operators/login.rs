//! Where a cluster's logins are.

use std::{borrow::Cow, fmt};

use crate::k8s::api::names::{Namespace, Reference};

/// Which logins exist for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::k8s) enum LoginKind {
    /// The cluster's own application.
    Application,
    /// A further role.
    Managed,
    /// A superuser.
    Superuser,
}

/// Where a login is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::k8s) struct LoginSource {
    pub(in crate::k8s) kind: LoginKind,
    /// The role, where that is known without the Secret.
    pub(in crate::k8s) role: Option<String>,
    /// The Secret's namespace, where that is not the cluster's: only the configuration leads there.
    pub(in crate::k8s) namespace: Option<Namespace>,
    /// The Secret; `None` where none is needed.
    pub(in crate::k8s) secret: Option<Reference>,
    /// Whether the Secret must say itself that it is for this cluster.
    pub(in crate::k8s) consent: Consent,
    pub(in crate::k8s) keys: Keys,
    /// The database where the Secret names none.
    pub(in crate::k8s) database: String,
    /// Whether the operator may have put six digits behind the role's name when it rotated the password.
    pub(in crate::k8s) rotates: bool,
}

/// Who decides that a Secret is a cluster's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::k8s) enum Consent {
    /// Whoever names it may read it anyway, or the operator that made both.
    #[default]
    Given,
    /// Its own author: whoever names it need not be allowed to read it.
    Asked,
}

/// How a Secret holds a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::k8s) enum Keys {
    /// In keys of their own.
    Named {
        /// The user's name.
        user: Part,
        /// The password.
        password: Part,
        /// The database, where a key names one.
        database: Part,
    },
    /// In any of the shapes that connection Secrets have.
    Connection,
}

/// One part of a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::k8s) enum Part {
    /// The first of these keys that the Secret has.
    Keys(Vec<Cow<'static, str>>),
    /// This, whatever the Secret says.
    Fixed(String),
    /// Nowhere.
    Absent,
    /// In the first of these places that has the key, else this.
    In(Vec<KeyOf>, Option<String>),
    /// These, one behind the other.
    Joined(Vec<Part>),
    /// Where the object itself holds a password.
    Plain(Hidden),
}

/// A key of an object in the cluster's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::k8s) enum KeyOf {
    Secret(Reference, String),
    ConfigMap(Reference, String),
}

/// A password that stands in an object that is no Secret. Not shown.
#[derive(Clone)]
pub(in crate::k8s) struct Hidden(pub(in crate::k8s) secrecy::SecretString);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden")
    }
}

impl PartialEq for Hidden {
    fn eq(&self, other: &Self) -> bool {
        use secrecy::ExposeSecret as _;
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl Eq for Hidden {}

impl Part {
    pub(in crate::k8s) fn keys(keys: &[&'static str]) -> Self {
        Self::Keys(keys.iter().copied().map(Cow::Borrowed).collect())
    }

    pub(in crate::k8s) fn key(key: &str) -> Self {
        Self::Keys(vec![Cow::Owned(key.to_owned())])
    }
}

impl LoginSource {
    /// In keys of their own.
    pub(in crate::k8s) fn new(
        kind: LoginKind,
        role: Option<&str>,
        secret: Option<Reference>,
        keys: Keys,
        database: &str,
    ) -> Self {
        Self {
            kind,
            role: role.map(str::to_owned),
            namespace: None,
            secret,
            consent: Consent::Given,
            keys,
            database: database.to_owned(),
            rotates: false,
        }
    }

    /// The Secret's name, for a sentence; empty where there is none.
    pub(in crate::k8s) fn secret_name(&self) -> &str {
        self.secret.as_ref().map_or("", Reference::shown)
    }

    /// The keys of type basic-auth.
    pub(in crate::k8s) fn basic_auth() -> Keys {
        Keys::Named {
            user: Part::keys(&["username", "user"]),
            password: Part::keys(&["password"]),
            database: Part::keys(&["dbname", "database"]),
        }
    }
}
