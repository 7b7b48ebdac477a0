//! A target as it is written: `cluster["."namespace]["@"context][":"mode]`.

use crate::upstream::{Mode, Target};

/// Why a text names no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mistake {
    /// It has another shape.
    #[error("\"{text}\" does not name a cluster")]
    Shape {
        /// The text.
        text: String,
    },
    /// What stands behind the colon is no mode.
    #[error("unknown mode \"{mode}\" in \"{text}\": it is rw, ro or any")]
    Mode {
        /// The text.
        text: String,
        /// What is no mode.
        mode: String,
    },
    /// It would be a target in lower case.
    #[error("\"{text}\" does not name a cluster: names in Kubernetes are lower-case")]
    Case {
        /// The text.
        text: String,
    },
}

impl Mistake {
    /// What was probably meant.
    pub(super) fn meant(&self) -> Option<String> {
        match self {
            Self::Shape { .. } => None,
            Self::Mode { text, mode } => Some(format!("{}ro", text.strip_suffix(mode.as_str())?)),
            Self::Case { text } => Some(text.to_lowercase()),
        }
    }
}

/// Takes a target apart.
///
/// # Errors
/// Where the text is none, with what is wrong with it.
pub fn parse_target(text: &str) -> Result<Target, Mistake> {
    let (rest, mode) = match text.rsplit_once(':') {
        None => (text, Mode::Rw),
        Some((rest, "rw")) => (rest, Mode::Rw),
        Some((rest, "ro")) => (rest, Mode::Ro),
        Some((rest, "any")) => (rest, Mode::Any),
        Some((rest, mode)) => return Err(no_mode(text, rest, mode)),
    };
    let (name, context) = match rest.split_once('@') {
        None => (rest, None),
        Some((_, "")) => return Err(Mistake::Shape { text: text.to_owned() }),
        Some((name, context)) => (name, Some(context.to_owned())),
    };
    if is_object_name(name) {
        return Ok(Target { name: name.to_owned(), context, mode, system: None });
    }
    // A context's name keeps its case: only what would be a target with it is a mistake of case.
    let text = text.to_owned();
    Err(if is_object_name(&name.to_lowercase()) { Mistake::Case { text } } else { Mistake::Shape { text } })
}

/// The part before the colon decides whether a mode was meant.
fn no_mode(text: &str, rest: &str, mode: &str) -> Mistake {
    let text = text.to_owned();
    match parse_target(rest) {
        Ok(_) if !mode.contains('/') => Mistake::Mode { text, mode: mode.to_owned() },
        _ => Mistake::Shape { text },
    }
}

/// A Kubernetes object name, or two of them with a dot between: DNS labels (RFC 1123) divided by dots.
fn is_object_name(text: &str) -> bool {
    text.len() <= 253 + 1 + 63
        && text.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// `target`, `target/dbname` or `target~dbname`: `~` needs no escape in an URL's path, and no name in Kubernetes has one.
/// The first of the two divides, so that a database's own name may hold either.
pub(super) fn divide(text: &str) -> (&str, Option<&str>) {
    match text.split_once(['/', '~']) {
        Some((target, database)) => (target, Some(database).filter(|database| !database.is_empty())),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_that_are_no_targets() {
        for bad in ["", "shop:", "shop@", "a..b", ".a", "a.", "-a", "a-", "shop prod", "shöp", "a_b", "SHÖP"] {
            let mistake = parse_target(bad).expect_err(bad);
            let shape = Mistake::Shape { text: bad.to_owned() };
            assert!(mistake == shape || bad == "shop:", "{bad}: {mistake:?}");
        }
        for good in ["shop", "shop.prod", "a.b.c", "shop@x/y", "shop.prod@arn:ro", "0", "shop@a@b:any"] {
            assert!(parse_target(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_mistake_says_what_was_meant() {
        for (text, meant) in [
            ("Shop", Some("shop")),
            ("SHOP.PROD:ro", Some("shop.prod:ro")),
            ("shop:write", Some("shop:ro")),
            ("shop.prod@eu:rx", Some("shop.prod@eu:ro")),
            ("shop_prod", None),
            ("shop@arn:aws:cluster/x", None),
        ] {
            assert_eq!(parse_target(text).expect_err(text).meant().as_deref(), meant, "{text}");
        }
    }

    #[test]
    fn the_first_separator_divides() {
        for (text, parts) in [
            ("shop", ("shop", None)),
            ("shop/books", ("shop", Some("books"))),
            ("shop.prod:ro~books", ("shop.prod:ro", Some("books"))),
            ("shop/a~b", ("shop", Some("a~b"))),
            ("shop~a/b", ("shop", Some("a/b"))),
            ("shop~", ("shop", None)),
        ] {
            assert_eq!(divide(text), parts, "{text}");
        }
    }
}
