//! The list of rules: the first that fits decides, and where there is a list and none fits, nobody may. It narrows what
//! is allowed otherwise.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use crate::{
    session::target::parse_target,
    upstream::{ClusterId, Identity, Mode, Person},
};

/// What a rule sets a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// How long it may last.
    pub session: Option<Duration>,
    /// How long it may be idle.
    pub idle: Option<Duration>,
    /// How many one person may have by this rule at a time.
    pub connections: Option<usize>,
}

/// Who may connect where.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// Names of people; neither these nor groups: everybody.
    pub people: Vec<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// Where.
    pub targets: Vec<Pattern>,
    /// As which PostgreSQL roles; none: any.
    pub roles: Vec<String>,
    /// In which modes; none: any.
    pub modes: Vec<Mode>,
    /// When it ends.
    pub until: Option<SystemTime>,
    /// Whether the client must say why.
    pub reason_required: bool,
    /// What it sets a session.
    pub bounds: Bounds,
}

/// `cluster.namespace[@context][:mode]`, each field a name or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    cluster: Option<String>,
    namespace: Option<String>,
    context: Option<String>,
    mode: Option<Mode>,
}

/// A text that is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no cluster.namespace[@context][:mode] with * for any name")]
pub struct NoPattern(String);

impl Pattern {
    /// Takes one apart: as in a target, the namespace stands behind the last dot.
    ///
    /// # Errors
    /// Where a field is missing, or is neither a name nor `*`.
    pub fn parse(text: &str) -> Result<Self, NoPattern> {
        let no = || NoPattern(text.to_owned());
        let (name, rest) = text.split_at(text.find(['@', ':']).unwrap_or(text.len()));
        let (cluster, namespace) = name.rsplit_once('.').ok_or_else(no)?;
        // Whatever stands for any name must be as good as one.
        let probe = |field: &str| if field == "*" { "x".to_owned() } else { field.to_owned() };
        let (any_context, rest) = match rest.strip_prefix("@*") {
            Some(rest) if rest.is_empty() || rest.starts_with(':') => (true, rest),
            _ => (false, rest),
        };
        let target = parse_target(&format!("{}.{}{rest}", probe(cluster), probe(namespace))).map_err(|_| no())?;
        let field = |field: &str| (field != "*").then(|| field.to_owned());
        let mode = rest.rsplit_once(':').map(|_| target.mode);
        let context = target.context.filter(|_| !any_context);
        Ok(Self { cluster: field(cluster), namespace: field(namespace), context, mode })
    }

    fn fits(&self, cluster: &ClusterId, mode: Mode) -> bool {
        let is = |field: &Option<String>, name: &str| field.as_deref().is_none_or(|field| field == name);
        is(&self.cluster, &cluster.name)
            && is(&self.namespace, &cluster.namespace)
            && is(&self.context, &cluster.context)
            && self.mode.is_none_or(|wanted| wanted == mode)
    }
}

/// What is asked of the list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Visit<'a> {
    pub(super) identity: &'a Identity,
    pub(super) cluster: &'a ClusterId,
    pub(super) mode: Mode,
    pub(super) role: &'a str,
}

impl Rule {
    fn fits(&self, visit: Visit<'_>, now: SystemTime) -> bool {
        let person = |person: &Person| {
            self.people.contains(&person.name) || person.groups.iter().any(|group| self.groups.contains(group))
        };
        let everybody = self.people.is_empty() && self.groups.is_empty();
        let who = everybody || matches!(visit.identity, Identity::Person(known) if person(known));
        let role = self.roles.is_empty() || self.roles.iter().any(|role| role == "*" || role == visit.role);
        let mode = self.modes.is_empty() || self.modes.contains(&visit.mode);
        let where_to = self.targets.iter().any(|pattern| pattern.fits(visit.cluster, visit.mode));
        who && role && mode && where_to && self.until.is_none_or(|until| now < until)
    }

    /// Whether it names the role itself, and not as one of any.
    pub(super) fn names(&self, role: &str) -> bool {
        self.roles.iter().any(|named| named == role)
    }
}

/// A rule's place in the list, for logs: `access[2]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Number(pub usize);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "access[{}]", self.0)
    }
}

/// The list.
#[derive(Clone, Debug, Default)]
pub struct Rules(pub Vec<Rule>);

impl Rules {
    /// The first that fits.
    pub(super) fn decide(&self, visit: Visit<'_>, now: SystemTime) -> Option<(Number, &Rule)> {
        let found = self.0.iter().enumerate().find(|(_, rule)| rule.fits(visit, now));
        found.map(|(at, rule)| (Number(at), rule))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::upstream::How;

    fn cluster(name: &str, namespace: &str) -> ClusterId {
        let (context, system) = ("eu".to_owned(), "cloudnative-pg".into());
        ClusterId { context, namespace: namespace.to_owned(), name: name.to_owned(), system }
    }

    fn kim() -> Identity {
        Identity::Person(Arc::new(Person {
            name: "cert:kim".to_owned(),
            groups: vec!["cert:dev".to_owned()],
            uid: String::new(),
            extra: std::collections::BTreeMap::new(),
            how: How::Certificate,
            until: None,
            context: None,
        }))
    }

    fn rule(targets: &[&str]) -> Rule {
        Rule {
            targets: targets.iter().map(|text| Pattern::parse(text).expect("a pattern")).collect(),
            ..Rule::default()
        }
    }

    #[test]
    fn a_star_stays_within_its_field() {
        let fits = |pattern: &str, name: &str, namespace: &str, mode| {
            Pattern::parse(pattern).expect("a pattern").fits(&cluster(name, namespace), mode)
        };
        assert!(fits("*.prod", "shop", "prod", Mode::Rw) && fits("*.prod", "eu.shop", "prod", Mode::Ro));
        assert!(!fits("*.prod", "prod", "staging", Mode::Rw) && !fits("shop.*", "shopx", "prod", Mode::Rw));
        assert!(fits("eu.shop.prod", "eu.shop", "prod", Mode::Rw) && !fits("shop.prod", "eu.shop", "prod", Mode::Rw));
        assert!(fits("*.prod:ro", "shop", "prod", Mode::Ro) && !fits("*.prod:ro", "shop", "prod", Mode::Rw));
        assert!(fits("shop.prod:rw", "shop", "prod", Mode::Rw) && !fits("shop.prod:rw", "shop", "prod", Mode::Any));
        assert!(fits("*.*@eu", "shop", "prod", Mode::Rw) && !fits("*.*@us", "shop", "prod", Mode::Rw));
        assert!(fits("*.*@*:any", "shop", "prod", Mode::Any));
        for text in
            ["", "shop", "*", "sh*p.prod", "*.shop.prod", "shop.prod:xx", "shop.prod@", "Shop.prod", ".prod", "shop."]
        {
            assert_eq!(Pattern::parse(text), Err(NoPattern(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn the_first_that_fits_decides() {
        let (shop, now) = (cluster("shop", "prod"), SystemTime::now());
        let past = Some(now - Duration::from_secs(1));
        let rules = Rules(vec![
            Rule { until: past, ..rule(&["*.*"]) },
            Rule { people: vec!["cert:lee".to_owned()], ..rule(&["*.*"]) },
            Rule { groups: vec!["cert:dev".to_owned()], roles: vec!["readonly".to_owned()], ..rule(&["*.prod"]) },
            Rule { modes: vec![Mode::Ro], ..rule(&["shop.prod"]) },
        ]);
        let decide = |identity: &Identity, mode, role: &str| {
            rules.decide(Visit { identity, cluster: &shop, mode, role }, now).map(|(number, _)| number.0)
        };
        assert_eq!(decide(&kim(), Mode::Rw, "readonly"), Some(2));
        assert_eq!(decide(&kim(), Mode::Rw, "app"), None);
        assert_eq!(decide(&kim(), Mode::Ro, "app"), Some(3));
        assert_eq!(decide(&Identity::Local, Mode::Rw, "readonly"), None);
        assert_eq!(decide(&Identity::Local, Mode::Ro, "readonly"), Some(3));
    }
}
