//! What a call is about: the object or list. It says what the caller must be allowed, and it is the one place that makes
//! paths: out of parsed names alone, each percent-encoded besides.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
};

use crate::k8s::api::{
    names::{Namespace, ObjectName},
    resource::Resource,
};

/// What a call is about.
#[derive(Clone, Debug)]
pub struct Access<'a> {
    /// `get`, `list`, `watch`, `create`.
    pub verb: &'static str,
    /// The API group; empty for the core one.
    pub group: &'a str,
    /// The group's version.
    pub version: Cow<'a, str>,
    /// Plural.
    pub resource: &'a str,
    /// `portforward`.
    pub subresource: Option<&'static str>,
    /// `None` is all namespaces.
    pub namespace: Option<&'a Namespace>,
    /// The object, where one is meant.
    pub name: Option<&'a ObjectName>,
}

impl<'a> Access<'a> {
    /// One object or a collection.
    pub(in crate::k8s) fn new(
        verb: &'static str,
        resource: &'a Resource,
        version: Cow<'a, str>,
        namespace: Option<&'a Namespace>,
        name: Option<&'a ObjectName>,
    ) -> Self {
        Self { verb, group: &resource.group, version, resource: &resource.plural, subresource: None, namespace, name }
    }

    /// What is no object: `/version`, `/apis`.
    pub(in crate::k8s) const fn to(url: &'static str) -> Self {
        Self {
            verb: "get",
            group: "",
            version: Cow::Borrowed(""),
            resource: url,
            subresource: None,
            namespace: None,
            name: None,
        }
    }

    /// Resource and subresource, as RBAC rules name them: `pods/portforward`.
    #[must_use]
    pub fn kind(&self) -> String {
        match self.subresource {
            Some(sub) => format!("{}/{sub}", self.resource),
            None => self.resource.to_owned(),
        }
    }

    /// The path with its query.
    #[must_use]
    pub fn path(&self, query: &[(&str, String)]) -> String {
        let mut path = String::with_capacity(128);
        if self.version.is_empty() {
            path.push('/');
            path.push_str(self.resource);
        } else {
            let root: &[&str] = if self.group.is_empty() { &["api"] } else { &["apis", self.group] };
            let namespace = self.namespace.map(|namespace| ["namespaces", namespace]);
            let segments = root
                .iter()
                .copied()
                .chain([&*self.version])
                .chain(namespace.into_iter().flatten())
                .chain([self.resource])
                .chain(self.name.map(|name| &**name))
                .chain(self.subresource);
            for segment in segments {
                path.push('/');
                encode(&mut path, segment);
            }
        }
        for (index, (name, value)) in query.iter().enumerate() {
            path.push(if index == 0 { '?' } else { '&' });
            path.push_str(name);
            path.push('=');
            encode(&mut path, value);
        }
        path
    }

    pub(in crate::k8s) fn owned(&self) -> OwnedAccess {
        OwnedAccess {
            verb: self.verb,
            group: self.group.to_owned(),
            resource: self.resource.to_owned(),
            namespace: self.namespace.cloned(),
        }
    }
}

/// Percent-encoded but for what is never special (RFC 3986, section 2.3).
fn encode(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

impl fmt::Display for Access<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind())?;
        if let Some(name) = self.name {
            write!(f, " {name}")?;
        }
        match self.namespace {
            Some(namespace) => write!(f, " in namespace {namespace}"),
            None => Ok(()),
        }
    }
}

/// An [`Access`] that a stream can keep, for its errors.
pub(in crate::k8s) struct OwnedAccess {
    verb: &'static str,
    group: String,
    resource: String,
    namespace: Option<Namespace>,
}

impl OwnedAccess {
    pub(in crate::k8s) fn borrow(&self) -> Access<'_> {
        Access {
            verb: self.verb,
            group: &self.group,
            version: Cow::Borrowed(""),
            resource: &self.resource,
            subresource: None,
            namespace: self.namespace.as_ref(),
            name: None,
        }
    }
}

/// Which objects of a list.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// `labelSelector`.
    pub labels: Option<String>,
    /// `fieldSelector`.
    pub fields: Option<String>,
}

impl ListQuery {
    /// By labels.
    #[must_use]
    pub fn labels(selector: impl Into<String>) -> Self {
        Self { labels: Some(selector.into()), fields: None }
    }

    /// By fields.
    #[must_use]
    pub fn fields(selector: impl Into<String>) -> Self {
        Self { labels: None, fields: Some(selector.into()) }
    }

    pub(in crate::k8s) fn write(&self, query: &mut Vec<(&'static str, String)>) {
        query.extend(self.labels.iter().map(|selector| ("labelSelector", selector.clone())));
        query.extend(self.fields.iter().map(|selector| ("fieldSelector", selector.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k8s::api::resource::{PODS, STATEFUL_SETS};

    #[test]
    fn paths_are_made_of_names_and_encoded() {
        let namespace = Namespace::parse("prod").expect("a namespace");
        let name = ObjectName::parse("shop-1").expect("a name");
        let pods = Access::new("list", &PODS, "v1".into(), Some(&namespace), None);
        let query = [("labelSelector", "a in (b,c),d".to_owned()), ("limit", "5".to_owned())];
        assert_eq!(pods.path(&query), "/api/v1/namespaces/prod/pods?labelSelector=a%20in%20%28b%2Cc%29%2Cd&limit=5");
        let one = Access { subresource: Some("portforward"), name: Some(&name), ..pods };
        assert_eq!(one.path(&[]), "/api/v1/namespaces/prod/pods/shop-1/portforward");
        let sets = Access::new("list", &STATEFUL_SETS, "v1".into(), None, None);
        assert_eq!(sets.path(&[]), "/apis/apps/v1/statefulsets");
        assert_eq!(Access::to("version").path(&[]), "/version");
        let odd = Resource { group: "a/b?".into(), version: "v1".into(), others: &[], plural: "x#y".into() };
        assert_eq!(Access::new("list", &odd, "v1".into(), None, None).path(&[]), "/apis/a%2Fb%3F/v1/x%23y");
    }
}
