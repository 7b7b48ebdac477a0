//! What somebody may: a `SubjectAccessReview`. It needs no token, so that it can be asked again as long as a session lasts.

use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::GROUP;
use crate::{
    k8s::api::{client::Context, error::K8sError, resource::SUBJECT_ACCESS_REVIEWS},
    upstream::{Answer, Question},
};

/// The resource's name; behind it stands the PostgreSQL role.
const CLUSTERS: &str = "clusters";

#[derive(Deserialize)]
struct Reviewed {
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    allowed: bool,
    #[serde(default)]
    denied: bool,
    #[serde(default)]
    evaluation_error: String,
}

/// # Errors
/// Where there is no answer, or one that an authorizer's error may have changed.
pub(super) async fn ask(context: &Context, question: &Question, deadline: Instant) -> Result<Answer, K8sError> {
    let access = context.access("create", &SUBJECT_ACCESS_REVIEWS, None, None);
    let review: Reviewed = context.ask(&access, &spec(question), deadline).await?;
    let Status { allowed, denied, evaluation_error } = review.status;
    if !evaluation_error.is_empty() {
        // Its words are an authorizer's own, which may quote what is nobody's here.
        return Err(K8sError::Malformed { what: "a review".to_owned(), why: "it could not be evaluated".to_owned() });
    }
    Ok(if allowed && !denied { Answer::Allowed } else { Answer::Refused })
}

fn spec(question: &Question) -> serde_json::Value {
    let (person, cluster) = (&question.person, &question.cluster);
    json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": person.name,
            "groups": person.groups,
            "uid": person.uid,
            "extra": person.extra,
            "resourceAttributes": {
                "group": GROUP,
                "resource": CLUSTERS,
                "subresource": question.role,
                "name": cluster.name,
                "namespace": cluster.namespace,
                "verb": question.verb.as_str(),
            },
        },
    })
}
