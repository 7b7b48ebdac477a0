//! What a call is about: the object or list, and what the caller must be allowed for it.

use std::fmt;

/// What a call needs to be allowed, for its error.
#[derive(Clone, Debug)]
pub struct Access<'a> {
    /// `get`, `list`, `watch`, `create`.
    pub verb: &'static str,
    /// The API group; empty for the core one.
    pub group: &'a str,
    /// Plural, with the subresource: `pods/portforward`.
    pub resource: &'a str,
    /// `None` is all namespaces.
    pub namespace: Option<&'a str>,
    /// The object, where one is meant.
    pub name: Option<&'a str>,
}

impl fmt::Display for Access<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.resource)?;
        if let Some(name) = self.name {
            write!(f, " {name}")?;
        }
        match self.namespace {
            Some(namespace) => write!(f, " in namespace {namespace}"),
            None => Ok(()),
        }
    }
}

/// An [`Access`] that a stream can keep.
pub(super) struct OwnedAccess {
    verb: &'static str,
    group: String,
    resource: String,
    namespace: Option<String>,
}

impl Access<'_> {
    pub(super) fn owned(&self) -> OwnedAccess {
        OwnedAccess {
            verb: self.verb,
            group: self.group.to_owned(),
            resource: self.resource.to_owned(),
            namespace: self.namespace.map(str::to_owned),
        }
    }
}

impl OwnedAccess {
    pub(super) fn borrow(&self) -> Access<'_> {
        Access {
            verb: self.verb,
            group: &self.group,
            resource: &self.resource,
            namespace: self.namespace.as_deref(),
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

    pub(super) fn write(&self, query: &mut Vec<(&'static str, String)>) {
        query.extend(self.labels.iter().map(|selector| ("labelSelector", selector.clone())));
        query.extend(self.fields.iter().map(|selector| ("fieldSelector", selector.clone())));
    }
}

/// A path with its query, percent-encoded.
pub(super) fn with_query(path: &str, parameters: &[(&str, String)]) -> String {
    let mut out = path.to_owned();
    for (index, (name, value)) in parameters.iter().enumerate() {
        out.push(if index == 0 { '?' } else { '&' });
        out.push_str(name);
        out.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                out.push(char::from(byte));
            } else {
                // Writing into a String cannot fail.
                let _ = fmt::Write::write_fmt(&mut out, format_args!("%{byte:02X}"));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        let query = [("labelSelector", "a in (b,c),d".to_owned()), ("limit", "5".to_owned())];
        assert_eq!(with_query("/x", &query), "/x?labelSelector=a%20in%20%28b%2Cc%29%2Cd&limit=5");
    }
}
