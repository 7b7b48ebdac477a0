//! `Review`: who a token belongs to, and what that person may, as the API server says (Kubernetes' documentation,
//! "Authenticating" and "Authorization Overview").
//!
//! What a person may is asked about a resource that exists in RBAC rules alone: nobody can therefore go round pgferry with
//! the same right.

use std::sync::Arc;

use async_trait::async_trait;
use secrecy::SecretString;
use tokio::time::Instant;

use crate::{
    k8s::api::contexts::Contexts,
    upstream::{Answer, Failure, Person, Question, Review},
};

mod permission;
mod tokens;

use tokens::Tokens;

/// The API group of the resource that stands in RBAC rules.
pub const GROUP: &str = "pgferry.dev";

/// Asks API servers.
#[derive(Debug)]
pub struct Reviews {
    contexts: Arc<Contexts>,
    tokens: Tokens,
}

impl Reviews {
    /// Tokens must be meant for one of these audiences; none: for the API server itself.
    #[must_use]
    pub fn new(contexts: Arc<Contexts>, audiences: Vec<String>) -> Self {
        Self { contexts, tokens: Tokens::new(audiences) }
    }
}

#[async_trait]
impl Review for Reviews {
    async fn person(&self, token: &SecretString, deadline: Instant) -> Result<Option<Person>, Failure> {
        let context = self.contexts.get_quietly(None).await?;
        Ok(self.tokens.person(&context, token, deadline).await?)
    }

    async fn may(&self, question: &Question, deadline: Instant) -> Result<Answer, Failure> {
        let context = self.contexts.get_quietly(Some(&question.cluster.context)).await?;
        Ok(permission::ask(&context, question, deadline).await?)
    }
}
