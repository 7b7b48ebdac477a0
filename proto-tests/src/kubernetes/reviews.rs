//! Reviews: who a token belongs to, and what somebody may, as rules say that stand in RBAC alone.

use http::Response;
use http_body_util::BodyExt as _;
use hyper::{Request, body::Incoming};
use serde_json::{Value, json};

use super::{
    FakeKubernetes,
    answer::{Body, respond},
    store::Shared,
};

/// A token of somebody who is no user of this API server's but through a review.
#[derive(Clone, Debug)]
pub(crate) struct Bearer {
    name: String,
    groups: Vec<String>,
    audience: String,
}

/// A binding: a subject, by name or group, may do one thing with one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    subject: String,
    namespace: String,
    verb: String,
    resource: String,
    name: String,
}

impl FakeKubernetes {
    /// A token that is good for this audience.
    pub fn bearer(&self, token: &str, name: &str, groups: &[&str], audience: &str) {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        let bearer = Bearer { name: name.to_owned(), groups, audience: audience.to_owned() };
        self.shared.store().bearers.insert(token.to_owned(), bearer);
    }

    /// Somebody, or a group, may do this with a cluster: `bind("kim", "connect", "clusters/app", "prod", "shop")`.
    pub fn bind(&self, subject: &str, verb: &str, resource: &str, namespace: &str, name: &str) {
        let bound = bound(subject, verb, resource, namespace, name);
        self.shared.store().bound.push(bound);
    }

    /// And may not any more.
    pub fn unbind(&self, subject: &str, verb: &str, resource: &str, namespace: &str, name: &str) {
        let gone = bound(subject, verb, resource, namespace, name);
        self.shared.store().bound.retain(|bound| *bound != gone);
    }
}

fn bound(subject: &str, verb: &str, resource: &str, namespace: &str, name: &str) -> Bound {
    Bound {
        subject: subject.to_owned(),
        namespace: namespace.to_owned(),
        verb: verb.to_owned(),
        resource: resource.to_owned(),
        name: name.to_owned(),
    }
}

/// The answer to a review.
pub(super) async fn answer(shared: &Shared, plural: &str, request: Request<Incoming>) -> Response<Body> {
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let mut review: Value = serde_json::from_slice(&body).unwrap_or_default();
    let status =
        if plural == "tokenreviews" { of_token(shared, &review["spec"]) } else { of_access(shared, &review["spec"]) };
    review["status"] = status;
    respond(201, review.to_string())
}

/// As the API server's token authenticators say it: a token for another audience is none.
fn of_token(shared: &Shared, spec: &Value) -> Value {
    let store = shared.store();
    let asked: Vec<&str> = spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match store.bearers.get(spec["token"].as_str().unwrap_or_default()) {
        Some(bearer) if asked.contains(&bearer.audience.as_str()) => json!({
            "authenticated": true,
            "audiences": [bearer.audience],
            "user": {"username": bearer.name, "groups": bearer.groups, "uid": "1"},
        }),
        Some(_) => json!({"error": "[invalid bearer token, token audiences are invalid for the target audiences]"}),
        None => json!({"error": "invalid bearer token"}),
    }
}

fn of_access(shared: &Shared, spec: &Value) -> Value {
    let about = &spec["resourceAttributes"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let resource = match text(&about["subresource"]) {
        sub if sub.is_empty() => text(&about["resource"]),
        sub => format!("{}/{sub}", text(&about["resource"])),
    };
    let mut subjects: Vec<String> = spec["groups"].as_array().into_iter().flatten().map(text).collect();
    subjects.push(text(&spec["user"]));
    let store = shared.store();
    let allowed = text(&about["group"]) == "pgferry.dev"
        && subjects.iter().any(|subject| {
            let asked =
                bound(subject, &text(&about["verb"]), &resource, &text(&about["namespace"]), &text(&about["name"]));
            store.bound.contains(&asked)
        });
    json!({"allowed": allowed})
}
