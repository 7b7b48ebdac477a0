//! Idle connections to the API server, kept ready for the next clients.

use std::{sync::atomic::Ordering, time::Duration};

use futures_util::future::join_all;
use tokio::time::sleep;
use tracing::debug;

use crate::k8s::api::client::Context;

/// How long a login takes where the way is short. A TLS handshake would compete with it for the same processors
/// (measured: 2 ms of 15); where the way is long this is little of it.
const LOGIN: Duration = Duration::from_millis(10);
/// The most that are replaced at once, beside the one for a Secret: GUIs and `pg_dump -j` open about as many sessions
/// together.
const MOST_AT_ONCE: usize = 8;

impl Context {
    /// A port-forward has used up a connection. Clients come in groups, and each needs one for its upgrade: as many as
    /// were used up are opened anew, and one for a Secret.
    pub(in crate::k8s) fn replenish(&self) {
        if self.shared().used_up.fetch_add(1, Ordering::Relaxed) > 0 {
            return; // somebody waits already, and replaces this one too
        }
        let context = self.clone();
        tokio::spawn(async move {
            sleep(LOGIN).await;
            let used_up = context.shared().used_up.swap(0, Ordering::Relaxed);
            // Requests at the same time reuse what is idle, and open what is missing.
            join_all((0..=used_up.min(MOST_AT_ONCE)).map(|_| context.touch())).await;
        });
    }

    /// Makes sure that a connection is open and idle: the next call finds TCP and TLS done.
    pub(in crate::k8s) async fn touch(&self) {
        if let Err(error) = self.greet().await {
            debug!(context = self.name(), %error, "the API server could not be greeted");
        }
    }
}
