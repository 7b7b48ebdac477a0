//! Whose turn it is: from the messages that pass both ways, whether the server has answered everything.
//!
//! PostgreSQL answers each Query, Sync and FunctionCall with one ReadyForQuery (chapter "Message Flow"). A session
//! is idle when as many have come back, the last one said idle, and nothing has been sent since.

use crate::pg::{TransactionStatus, walk::Seen};

/// The state of the conversation.
#[derive(Debug)]
pub(super) struct Activity {
    unanswered: u32,
    last_was_sync: bool,
    unsynced: bool,
    status: TransactionStatus,
    goodbye: Option<Side>,
}

/// Who has ended the conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

impl Activity {
    /// After the ReadyForQuery that ends the startup phase.
    pub(super) fn new() -> Self {
        Self { unanswered: 0, last_was_sync: false, unsynced: false, status: TransactionStatus::Idle, goodbye: None }
    }

    /// A message of the client's begins.
    pub(super) fn client_sends(&mut self, tag: u8) {
        match tag {
            b'Q' | b'F' | b'S' => {
                self.unanswered = self.unanswered.saturating_add(1);
                self.last_was_sync = tag == b'S';
                self.unsynced = false;
            }
            b'X' => self.goodbye = self.goodbye.or(Some(Side::Client)),
            // CopyData, CopyDone and CopyFail continue a turn that is counted already.
            b'd' | b'c' | b'f' => {}
            _ => self.unsynced = true,
        }
    }

    /// Something of the server's has passed.
    pub(super) fn server_sends(&mut self, seen: Seen) {
        match seen {
            Seen::Ready(status) => {
                self.unanswered = self.unanswered.saturating_sub(1);
                self.status = status;
            }
            // The server ignores a Sync that reaches it during COPY IN; the one behind CopyDone is answered instead.
            Seen::Message { tag: b'G', .. } if self.last_was_sync => {
                self.unanswered = self.unanswered.saturating_sub(1);
            }
            Seen::Error { fatal: true, .. } => self.goodbye = self.goodbye.or(Some(Side::Server)),
            Seen::Message { .. } | Seen::Error { .. } => {}
        }
    }

    /// The client has said goodbye.
    pub(super) fn terminated(&self) -> bool {
        self.goodbye == Some(Side::Client)
    }

    /// The server has said a FATAL: it closes.
    pub(super) fn fatal(&self) -> bool {
        self.goodbye == Some(Side::Server)
    }

    /// Everything sent is answered and no transaction is open.
    pub(super) fn idle(&self) -> bool {
        !self.running() && !self.unsynced && self.status == TransactionStatus::Idle
    }

    /// The server is at work for the client.
    pub(super) fn running(&self) -> bool {
        self.unanswered > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(activity: &mut Activity, status: TransactionStatus) {
        activity.server_sends(Seen::Ready(status));
    }

    #[test]
    fn a_simple_query_is_one_turn() {
        let mut activity = Activity::new();
        assert!(activity.idle());
        activity.client_sends(b'Q');
        assert!(activity.running() && !activity.idle());
        ready(&mut activity, TransactionStatus::InTransaction);
        assert!(!activity.running() && !activity.idle(), "a transaction is open");
        activity.client_sends(b'Q');
        ready(&mut activity, TransactionStatus::Idle);
        assert!(activity.idle());
    }

    #[test]
    fn pipelined_turns_are_counted() {
        let mut activity = Activity::new();
        for tag in *b"PBESPBES" {
            activity.client_sends(tag);
        }
        ready(&mut activity, TransactionStatus::Idle);
        assert!(!activity.idle(), "the second Sync is not answered");
        ready(&mut activity, TransactionStatus::Idle);
        assert!(activity.idle());
        activity.client_sends(b'P');
        assert!(!activity.idle() && !activity.running(), "parsed, and no Sync yet");
    }

    #[test]
    fn a_sync_before_copy_data_is_not_answered() {
        let mut activity = Activity::new();
        for tag in *b"BES" {
            activity.client_sends(tag);
        }
        activity.server_sends(Seen::Message { tag: b'G', len: 7 });
        for tag in *b"ddcS" {
            activity.client_sends(tag);
        }
        ready(&mut activity, TransactionStatus::Idle);
        assert!(activity.idle());
    }

    #[test]
    fn a_simple_copy_is_one_turn() {
        let mut activity = Activity::new();
        activity.client_sends(b'Q');
        activity.server_sends(Seen::Message { tag: b'G', len: 7 });
        for tag in *b"ddc" {
            activity.client_sends(tag);
        }
        assert!(activity.running());
        ready(&mut activity, TransactionStatus::Idle);
        assert!(activity.idle());
    }
}
