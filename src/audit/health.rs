//! Whether the sinks take lines.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::{error, info};

/// Of all sinks: which of them are in trouble.
#[derive(Clone, Debug)]
pub(super) struct Health {
    troubled: Arc<watch::Sender<Vec<String>>>,
    healthy: Arc<watch::Sender<bool>>,
}

impl Health {
    pub(super) fn new() -> Self {
        Self { troubled: Arc::new(watch::Sender::new(Vec::new())), healthy: Arc::new(watch::Sender::new(true)) }
    }

    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.healthy.subscribe()
    }

    pub(super) fn is_troubled(&self, sink: &str) -> bool {
        self.troubled.borrow().iter().any(|troubled| troubled == sink)
    }

    /// A sink does not take lines.
    pub(super) fn trouble(&self, sink: &str, why: &str) {
        let new = self.troubled.send_if_modified(|troubled| {
            let new = !troubled.iter().any(|troubled| troubled == sink);
            if new {
                troubled.push(sink.to_owned());
                self.healthy.send_replace(false);
            }
            new
        });
        if new {
            error!("audit events are not written to {sink}: {why}");
        }
    }

    /// A sink has taken all that it was given before.
    pub(super) fn recovered(&self, sink: &str) {
        if !self.is_troubled(sink) {
            return;
        }
        let was = self.troubled.send_if_modified(|troubled| {
            let before = troubled.len();
            troubled.retain(|troubled| troubled != sink);
            self.healthy.send_replace(troubled.is_empty());
            before != troubled.len()
        });
        if was {
            info!("audit events are written to {sink} again");
        }
    }
}
