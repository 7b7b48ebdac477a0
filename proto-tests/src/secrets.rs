//! Every password and token that tests make, so that all output can be searched for them.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

static KNOWN: Mutex<Vec<String>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A new secret that no text holds by chance.
#[must_use]
pub fn make(what: &str) -> String {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let secret = format!("s3cr3t-{what}-{}-{number}", std::process::id());
    remember(&secret);
    secret
}

/// Has output searched for this one, too.
pub fn remember(secret: &str) {
    KNOWN.lock().unwrap().push(secret.to_owned());
}

/// The first known secret that a text holds, plain or in base64.
#[must_use]
pub fn leaked(text: &str) -> Option<String> {
    use base64::Engine as _;
    let encoded = |secret: &str| base64::engine::general_purpose::STANDARD.encode(secret);
    let known = KNOWN.lock().unwrap();
    known.iter().find(|secret| text.contains(secret.as_str()) || text.contains(&encoded(secret))).cloned()
}
