//! Who a token belongs to: a `TokenReview`.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tracing::info;

use crate::{
    error::printable,
    k8s::api::{client::Context, error::K8sError, resource::TOKEN_REVIEWS, single_flight::Readings},
    upstream::{How, Person},
};

/// As long as API servers believe a token of their own once they have verified it: a GUI's dozen connections are one
/// question.
const BELIEVED: Duration = Duration::from_secs(10);
/// Clients that try the same again at once cost one question a second; whoever got a right just now waits no longer.
const REFUSED: Duration = Duration::from_secs(1);
/// Tokens that are remembered at the most. Whoever sends more of them is asked about each time.
const MOST_TOKENS: usize = 10_000;

/// The context it was asked in, and what remains of the token.
type Key = (String, [u8; 32]);
/// What an API server has said of a token.
#[derive(Clone)]
struct Known {
    at: Instant,
    /// Nobody where it is refused.
    person: Option<Person>,
}

/// Tokens that were asked about lately; never the tokens themselves.
pub(super) struct Tokens {
    audiences: Vec<String>,
    asking: Readings<Key, Option<Person>, K8sError>,
    known: Mutex<HashMap<Key, Known>>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("audiences", &self.audiences).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Reviewed {
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    authenticated: bool,
    user: User,
    audiences: Vec<String>,
    error: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct User {
    username: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

impl Tokens {
    pub(super) fn new(audiences: Vec<String>) -> Self {
        Self { audiences, asking: Readings::default(), known: Mutex::default() }
    }

    /// Those who bring the same token at the same time wait for one answer.
    ///
    /// # Errors
    /// Where the API server cannot say; that is not remembered.
    pub(super) async fn person(
        &self,
        context: &Context,
        token: &SecretString,
        deadline: Instant,
    ) -> Result<Option<Person>, K8sError> {
        let key = (context.name().to_owned(), Sha256::digest(token.expose_secret()).into());
        let asked = async {
            if let Some(known) = self.known_lately(&key) {
                return Ok(known.person);
            }
            let person = self.review(context, token, deadline).await?;
            self.remember(key.clone(), Known { at: Instant::now(), person: person.clone() });
            Ok(person)
        };
        self.asking.join(key.clone(), deadline, Box::pin(asked)).await
    }

    fn known_lately(&self, key: &Key) -> Option<Known> {
        let lasts = |known: &&Known| if known.person.is_some() { BELIEVED } else { REFUSED } > known.at.elapsed();
        self.all().get(key).filter(lasts).cloned()
    }

    fn remember(&self, key: Key, answer: Known) {
        let mut all = self.all();
        all.retain(|_, known| known.at.elapsed() < BELIEVED);
        if all.len() < MOST_TOKENS || all.contains_key(&key) {
            all.insert(key, answer);
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Key, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn review(
        &self,
        context: &Context,
        token: &SecretString,
        deadline: Instant,
    ) -> Result<Option<Person>, K8sError> {
        let access = context.access("create", &TOKEN_REVIEWS, None, None);
        let question = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token.expose_secret(), "audiences": self.audiences},
        });
        let review: Reviewed = context.ask(&access, &question, deadline).await?;
        Ok(self.believed(review.status, context.name()))
    }

    /// Who it is, where the answer is one about our audiences: an API server that knows none of them says so by naming
    /// none.
    fn believed(&self, status: Status, context: &str) -> Option<Person> {
        let Status { authenticated, user, audiences, error } = status;
        let meant = self.audiences.is_empty() || audiences.iter().any(|audience| self.audiences.contains(audience));
        let why = match (authenticated, meant) {
            _ if !error.is_empty() => printable(&error),
            (false, _) => "it is not valid".to_owned(),
            (true, false) => "it is meant for another audience".to_owned(),
            (true, true) if user.username.is_empty() => "it belongs to nobody".to_owned(),
            (true, true) => {
                return Some(Person {
                    name: user.username,
                    groups: user.groups,
                    uid: user.uid,
                    extra: user.extra,
                    how: How::Kubernetes,
                    until: None,
                    context: Some(context.to_owned()),
                });
            }
        };
        info!(context, "a token is refused: {why}");
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(text: &str) -> Status {
        serde_json::from_str::<Reviewed>(text).expect("a review").status
    }

    #[test]
    fn only_a_token_for_our_audience_counts() {
        let ours = Tokens::new(vec!["pgferry".to_owned()]);
        let believed = |text: &str| ours.believed(status(text), "prod").map(|person| person.name);
        let kim = r#""user": {"username": "kim", "groups": ["dev"]}"#;
        let good = format!(r#"{{"status": {{"authenticated": true, {kim}, "audiences": ["pgferry"]}}}}"#);
        assert_eq!(believed(&good).as_deref(), Some("kim"));
        for bad in [
            r#"{"status": {}}"#.to_owned(),
            r#"{"status": {"authenticated": false, "error": "expired"}}"#.to_owned(),
            format!(r#"{{"status": {{"authenticated": true, {kim}}}}}"#),
            format!(
                r#"{{"status": {{"authenticated": true, {kim}, "audiences": ["https://kubernetes.default.svc"]}}}}"#
            ),
            format!(r#"{{"status": {{"authenticated": true, {kim}, "audiences": ["pgferry"], "error": "half"}}}}"#),
            r#"{"status": {"authenticated": true, "user": {}, "audiences": ["pgferry"]}}"#.to_owned(),
        ] {
            assert_eq!(believed(&bad), None, "{bad}");
        }
        let any = Tokens::new(Vec::new());
        assert!(any.believed(status(&format!(r#"{{"status": {{"authenticated": true, {kim}}}}}"#)), "prod").is_some());
    }
}
