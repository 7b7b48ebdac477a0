//! Whose turn it is: from the messages that pass both ways, whether the server has answered everything.
//!
//! PostgreSQL answers each Query, Sync and FunctionCall with one ReadyForQuery (chapter "Message Flow"). A session
//! is idle when as many have come back, the last one said idle, and nothing has been sent since.

use crate::pg::{TransactionStatus, walk::Seen};

/// The state of the conversation.
#[derive(Debug)]
pub(super) struct Turns {
    unanswered: u32,
    last_was_sync: bool,
    unsynced: bool,
    status: TransactionStatus,
    terminated: bool,
    fatal: bool,
}

impl Turns {
    /// After the ReadyForQuery that ends the startup phase.
    pub(super) fn new() -> Self {
        Self {
            unanswered: 0,
            last_was_sync: false,
            unsynced: false,
            status: TransactionStatus::Idle,
            terminated: false,
            fatal: false,
        }
    }

    /// A message of the client's begins.
    pub(super) fn from_client(&mut self, tag: u8) {
        match tag {
            b'Q' | b'F' | b'S' => {
                self.unanswered = self.unanswered.saturating_add(1);
                self.last_was_sync = tag == b'S';
                self.unsynced = false;
            }
            b'X' => self.terminated = true,
            // CopyData, CopyDone and CopyFail continue a turn that is counted already.
            b'd' | b'c' | b'f' => {}
            _ => self.unsynced = true,
        }
    }

    /// Something of the server's has passed.
    pub(super) fn from_server(&mut self, seen: &Seen) {
        match *seen {
            Seen::Ready(status) => {
                self.unanswered = self.unanswered.saturating_sub(1);
                self.status = status;
            }
            // The server ignores a Sync that reaches it during COPY IN; the one behind CopyDone is answered instead.
            Seen::Message { tag: b'G', .. } if self.last_was_sync => {
                self.unanswered = self.unanswered.saturating_sub(1);
            }
            Seen::Error { fatal: true, .. } => self.fatal = true,
            Seen::Message { .. } | Seen::Error { .. } => {}
        }
    }

    /// The client has said goodbye.
    pub(super) fn terminated(&self) -> bool {
        self.terminated
    }

    /// The server has said a FATAL: it closes.
    pub(super) fn fatal(&self) -> bool {
        self.fatal
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

    fn ready(turns: &mut Turns, status: TransactionStatus) {
        turns.from_server(&Seen::Ready(status));
    }

    #[test]
    fn a_simple_query_is_one_turn() {
        let mut turns = Turns::new();
        assert!(turns.idle());
        turns.from_client(b'Q');
        assert!(turns.running() && !turns.idle());
        ready(&mut turns, TransactionStatus::InTransaction);
        assert!(!turns.running() && !turns.idle(), "a transaction is open");
        turns.from_client(b'Q');
        ready(&mut turns, TransactionStatus::Idle);
        assert!(turns.idle());
    }

    #[test]
    fn pipelined_turns_are_counted() {
        let mut turns = Turns::new();
        for tag in *b"PBESPBES" {
            turns.from_client(tag);
        }
        ready(&mut turns, TransactionStatus::Idle);
        assert!(!turns.idle(), "the second Sync is not answered");
        ready(&mut turns, TransactionStatus::Idle);
        assert!(turns.idle());
        turns.from_client(b'P');
        assert!(!turns.idle() && !turns.running(), "parsed, and no Sync yet");
    }

    #[test]
    fn a_sync_before_copy_data_is_not_answered() {
        let mut turns = Turns::new();
        for tag in *b"BES" {
            turns.from_client(tag);
        }
        turns.from_server(&Seen::Message { tag: b'G', len: 7 });
        for tag in *b"ddcS" {
            turns.from_client(tag);
        }
        ready(&mut turns, TransactionStatus::Idle);
        assert!(turns.idle());
    }

    #[test]
    fn a_simple_copy_is_one_turn() {
        let mut turns = Turns::new();
        turns.from_client(b'Q');
        turns.from_server(&Seen::Message { tag: b'G', len: 7 });
        for tag in *b"ddc" {
            turns.from_client(tag);
        }
        assert!(turns.running());
        ready(&mut turns, TransactionStatus::Idle);
        assert!(turns.idle());
    }
}
