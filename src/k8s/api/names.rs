//! Names, parsed where they enter. Whatever is read from Kubernetes was written by somebody, and where it names another
//! object that name becomes a part of a path that is asked for with our rights: so it is one of these types, or it leads
//! nowhere. The rules are Kubernetes' own (`k8s.io/apimachinery/pkg/util/validation`).

use std::{borrow::Cow, fmt, ops::Deref, sync::Arc};

use serde::{Deserialize, Deserializer, de};

use crate::{error::printable, upstream::ClusterId};

/// `DNS1123SubdomainMaxLength`.
const LONGEST_SUBDOMAIN: usize = 253;
/// `DNS1123LabelMaxLength`, and `LabelValueMaxLength`.
const LONGEST_LABEL: usize = 63;
/// How much of something that is no name is quoted.
const QUOTED: usize = 80;

/// A namespace's name: a DNS-1123 label.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(Arc<str>);

/// An object's name: a DNS-1123 subdomain.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName(Arc<str>);

/// A text that is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no name of a Kubernetes object")]
pub struct NotAName(String);

impl NotAName {
    fn of(text: &str) -> Self {
        let mut quoted: String = printable(text).chars().take(QUOTED).collect();
        if quoted.len() < text.len() && text.chars().count() > QUOTED {
            quoted.push_str("...");
        }
        Self(quoted)
    }
}

fn is_label(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(inside) && !text.starts_with('-') && !text.ends_with('-')
}

impl Namespace {
    /// Parses one.
    ///
    /// # Errors
    /// Where it is none.
    pub fn parse(text: &str) -> Result<Self, NotAName> {
        if text.len() <= LONGEST_LABEL && is_label(text) { Ok(Self(text.into())) } else { Err(NotAName::of(text)) }
    }
}

impl ObjectName {
    /// Parses one.
    ///
    /// # Errors
    /// Where it is none.
    pub fn parse(text: &str) -> Result<Self, NotAName> {
        if text.len() <= LONGEST_SUBDOMAIN && text.split('.').all(is_label) {
            Ok(Self(text.into()))
        } else {
            Err(NotAName::of(text))
        }
    }

    /// With a suffix, as operators make names: `-leader`.
    pub(in crate::k8s) fn with(&self, suffix: &'static str) -> Self {
        Self(format!("{}{suffix}", self.0).into())
    }
}

macro_rules! is_text {
    ($type:ident) => {
        impl Deref for $type {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl PartialEq<str> for $type {
            fn eq(&self, other: &str) -> bool {
                *self.0 == *other
            }
        }

        impl PartialEq<&str> for $type {
            fn eq(&self, other: &&str) -> bool {
                *self.0 == **other
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                Self::parse(&text).map_err(de::Error::custom)
            }
        }
    };
}

is_text!(Namespace);
is_text!(ObjectName);

/// Both names of a cluster.
pub(in crate::k8s) type Place = (Namespace, ObjectName);

/// The parsed names of a cluster that was resolved.
pub(in crate::k8s) fn place(id: &ClusterId) -> Result<Place, NotAName> {
    Ok((Namespace::parse(&id.namespace)?, ObjectName::parse(&id.name)?))
}

/// The name of another object, as an object gives it, and where it stands there. What is no name is kept for the error that
/// says so, and leads nowhere.
#[derive(Clone, Debug)]
pub(in crate::k8s) struct Reference {
    name: Result<ObjectName, NotAName>,
    /// A field's path or a Secret's key.
    field: Cow<'static, str>,
}

/// Who names the same object means the same.
impl PartialEq for Reference {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Reference {}

impl Reference {
    /// What `field` holds, or what is made of it.
    pub(in crate::k8s) fn new(text: &str, field: impl Into<Cow<'static, str>>) -> Self {
        Self { name: ObjectName::parse(text), field: field.into() }
    }

    /// A name that is computed from parsed ones.
    pub(in crate::k8s) fn computed(text: &str) -> Self {
        Self::new(text, "metadata.name")
    }

    /// The name; otherwise the field, and what it holds.
    pub(in crate::k8s) fn name(&self) -> Result<&ObjectName, Misnamed<'_>> {
        self.name.as_ref().map_err(|error| Misnamed { field: &self.field, error })
    }

    /// For a sentence: the name, or what stands in its place.
    pub(in crate::k8s) fn shown(&self) -> &str {
        match &self.name {
            Ok(name) => name,
            Err(NotAName(text)) => text,
        }
    }
}

/// Says which field holds what is no name.
#[derive(Clone, Copy, Debug)]
pub(in crate::k8s) struct Misnamed<'a> {
    field: &'a str,
    error: &'a NotAName,
}

impl fmt::Display for Misnamed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.error)
    }
}

/// Whether a text can be a Service's name: a label, as its host's first part is one.
pub(in crate::k8s) fn is_service_name(text: &str) -> bool {
    Namespace::parse(text).is_ok()
}

/// Whether a text can be the value of a label, and so stand in a selector.
pub(in crate::k8s) fn is_label_value(text: &str) -> bool {
    text.len() <= LONGEST_LABEL
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// Whether a text can be a label's name: a prefix that is a domain, if any, and a name.
pub(in crate::k8s) fn is_label_name(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    prefix.is_none_or(|prefix| ObjectName::parse(prefix).is_ok()) && !name.is_empty() && is_label_value(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_1123() {
        for good in ["a", "shop", "shop-1", "0", "shopdb.user.access", "a-b.c-d", &"a".repeat(253)] {
            assert!(ObjectName::parse(good).is_ok(), "{good}");
        }
        let long = "a".repeat(254);
        let bad = [
            "",
            ".",
            "..",
            "a/b",
            "../a",
            "a..b",
            "-a",
            "a-",
            "A",
            "a_b",
            "a b",
            "a?b",
            "a#b",
            "a%2f",
            "a\0",
            "a\n",
            "ä",
            &long,
            "x/exec?command=id&stdout=true&y=",
            "a.",
            ".a",
        ];
        for bad in bad {
            assert!(ObjectName::parse(bad).is_err() && Namespace::parse(bad).is_err(), "{bad}");
        }
        assert!(Namespace::parse("a.b").is_err() && Namespace::parse(&"a".repeat(64)).is_err());
    }

    #[test]
    fn what_is_no_name_is_quoted_short_and_printable() {
        let reference = Reference::new("a\u{1b}[31m/b", "spec.x");
        assert_eq!(
            reference.name().expect_err("no name").to_string(),
            "spec.x: \"a\u{fffd}[31m/b\" is no name of a Kubernetes object"
        );
        assert!(NotAName::of(&"/".repeat(1000)).to_string().len() < 140);
    }

    #[test]
    fn selectors_hold_labels_only() {
        for good in ["", "a", "A_b.c-1"] {
            assert!(is_label_value(good));
        }
        for bad in ["a,b", "a=b", "a in (b)", "!a", "a/b", &"a".repeat(64)] {
            assert!(!is_label_value(bad), "{bad}");
        }
        assert!(is_label_name("app") && is_label_name("app.kubernetes.io/name"));
        for bad in ["", "a,b", "a/b/c", "/a", "a/", "a b"] {
            assert!(!is_label_name(bad), "{bad}");
        }
    }
}
