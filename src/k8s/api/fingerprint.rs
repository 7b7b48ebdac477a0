//! What a kubeconfig says, in 32 bytes: to be compared later without keeping tokens and passwords for it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use zeroize::Zeroize as _;

/// SHA-256 over what was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::k8s) struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a part of a kubeconfig. The order of a map's keys says nothing: kube reads some into a `HashMap`, which has none.
    pub(in crate::k8s) fn of(what: &impl Serialize) -> Self {
        // What was read from a file can be written.
        let mut value = serde_json::to_value(what).unwrap_or_default();
        let mut sum = Sha256::new();
        feed(&value, &mut sum);
        scrub(&mut value);
        Self(sum.finalize().into())
    }
}

/// Every part with its kind and its length, so that no two values are the same bytes.
fn feed(value: &Value, sum: &mut Sha256) {
    let mut begin = |kind: u8, length: usize| {
        sum.update([kind]);
        sum.update(u64::try_from(length).unwrap_or(u64::MAX).to_be_bytes());
    };
    match value {
        Value::Object(map) => {
            begin(b'{', map.len());
            for (key, value) in map.iter().collect::<BTreeMap<_, _>>() {
                text(b'k', key, sum);
                feed(value, sum);
            }
        }
        Value::Array(values) => {
            begin(b'[', values.len());
            for value in values {
                feed(value, sum);
            }
        }
        Value::String(value) => text(b'"', value, sum),
        Value::Null | Value::Bool(_) | Value::Number(_) => text(b'=', &value.to_string(), sum),
    }
}

fn text(kind: u8, text: &str, sum: &mut Sha256) {
    sum.update([kind]);
    sum.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
    sum.update(text);
}

/// Tokens, passwords and keys are among the strings.
fn scrub(value: &mut Value) {
    match value {
        Value::Object(map) => map.values_mut().for_each(scrub),
        Value::Array(values) => values.iter_mut().for_each(scrub),
        Value::String(text) => text.zeroize(),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use kube::config::AuthInfo;
    use serde_json::json;

    use super::*;

    fn user(value: Value) -> Fingerprint {
        Fingerprint::of(&serde_json::from_value::<AuthInfo>(value).expect("a user"))
    }

    #[test]
    fn every_part_counts_and_no_order_does() {
        let exec = |args: &[&str], profile: &str| {
            let env = json!([{"name": "AWS_PROFILE", "value": profile}, {"name": "AWS_REGION", "value": "eu"}]);
            user(json!({"exec": {"apiVersion": "v1", "command": "aws", "args": args, "env": env}}))
        };
        let first = exec(&["eks", "a"], "dev");
        assert!((0..20).all(|_| exec(&["eks", "a"], "dev") == first), "a HashMap has another order each time");
        let others = [
            exec(&["eks", "b"], "dev"),
            exec(&["eks", "a"], "prod"),
            exec(&["eksa"], "dev"),
            user(json!({"token": "a"})),
            user(json!({"token": "b"})),
            user(json!({"tokenFile": "a"})),
            user(json!({"token": "a", "as": "carol"})),
        ];
        let mut all = vec![first];
        for other in others {
            assert!(!all.contains(&other), "{all:?}");
            all.push(other);
        }
    }
}
