//! Whether a session is at work: from the messages that pass both ways, whether the server has answered everything.
//!
//! PostgreSQL reads messages in the order in which they were sent and answers each in turn (chapter "Message Flow"; in
//! its source `PostgresMain` and `CopyGetData`), so what is not answered yet is a queue, and its front is what the server
//! is at. Each Query, FunctionCall and Sync is answered by one ReadyForQuery, but for two kinds that the server skips:
//!
//! - after an error of the extended protocol everything up to the next Sync, Query and FunctionCall among it
//! - during COPY IN each Sync before CopyDone or CopyFail: clients send Execute and Sync together, and learn only then
//!   that it was a COPY
//!
//! A session is idle when the queue is empty, the last ReadyForQuery said idle, and nothing was begun since.

use std::collections::VecDeque;

use crate::pg::{TransactionStatus, walk::Seen};

/// Room for as many unanswered messages is kept; a client that pipelines more gives it back when all is answered.
const KEPT: usize = 64;

/// A message of the client's that the server has yet to answer or, for the end of COPY data, to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unanswered {
    Parse,
    Bind,
    Describe,
    Close,
    Execute,
    /// Query or FunctionCall.
    Query,
    Sync,
    /// CopyDone or CopyFail.
    CopyEnd,
}

impl Unanswered {
    fn from_tag(tag: u8) -> Option<Self> {
        Some(match tag {
            b'P' => Self::Parse,
            b'B' => Self::Bind,
            b'D' => Self::Describe,
            b'C' => Self::Close,
            b'E' => Self::Execute,
            b'Q' | b'F' => Self::Query,
            b'S' => Self::Sync,
            b'c' | b'f' => Self::CopyEnd,
            _ => return None,
        })
    }

    /// ReadyForQuery is its answer.
    fn is_turn(self) -> bool {
        matches!(self, Self::Query | Self::Sync)
    }
}

/// What the server makes of the client's messages before it answers any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Normal,
    /// It takes COPY data: a Sync is not answered.
    Copying,
    /// It skips all up to the next Sync.
    Skipping {
        /// Something was sent meanwhile that is skipped, if the Sync is still to come.
        more: bool,
    },
}

/// The state of the conversation.
#[derive(Debug)]
pub(super) struct Activity {
    unanswered: VecDeque<Unanswered>,
    mode: Mode,
    /// Something of the extended protocol was sent, and no Sync since.
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
        Self {
            unanswered: VecDeque::new(),
            mode: Mode::Normal,
            unsynced: false,
            status: TransactionStatus::Idle,
            goodbye: None,
        }
    }

    /// A message of the client's begins.
    pub(super) fn client_sends(&mut self, tag: u8) {
        // What stands behind Terminate is read by nobody.
        if self.goodbye == Some(Side::Client) {
            return;
        }
        match (tag, Unanswered::from_tag(tag)) {
            (b'X', _) => self.goodbye = self.goodbye.or(Some(Side::Client)),
            // CopyData continues what is counted already, and Flush asks for no answer of its own.
            (b'd' | b'H', _) => {}
            (_, Some(sent)) => self.queue(sent),
            (_, None) => self.unsynced = true,
        }
    }

    fn queue(&mut self, sent: Unanswered) {
        match (self.mode, sent) {
            (Mode::Copying, Unanswered::Sync) | (Mode::Skipping { .. }, Unanswered::CopyEnd) => return,
            (Mode::Copying, Unanswered::CopyEnd) => {
                self.mode = Mode::Normal;
                return;
            }
            // It breaks the protocol, unless the COPY fails before it is read: what comes behind it is about another.
            (Mode::Copying, _) | (Mode::Skipping { .. }, Unanswered::Sync) => self.mode = Mode::Normal,
            (Mode::Skipping { .. }, _) => {
                self.mode = Mode::Skipping { more: true };
                return;
            }
            // With no COPY that it could end the server ignores it, and it ends none twice.
            (_, Unanswered::CopyEnd) if matches!(self.unanswered.back(), None | Some(Unanswered::CopyEnd)) => return,
            _ => {}
        }
        self.unsynced = match sent {
            Unanswered::Query | Unanswered::Sync => false,
            Unanswered::CopyEnd => self.unsynced,
            _ => true,
        };
        self.unanswered.push_back(sent);
    }

    /// Something of the server's has passed.
    pub(super) fn server_sends(&mut self, seen: Seen) {
        match seen {
            Seen::Ready(status) => self.ready(status),
            Seen::Error { fatal: true, .. } => self.goodbye = self.goodbye.or(Some(Side::Server)),
            Seen::Error { .. } => self.failed(),
            Seen::Message { tag, .. } => match tag {
                b'1' => self.answered(Unanswered::Parse),
                b'2' => self.answered(Unanswered::Bind),
                b'3' => self.answered(Unanswered::Close),
                b'T' | b'n' => self.answered(Unanswered::Describe),
                b'C' | b'I' | b's' => self.answered(Unanswered::Execute),
                b'G' | b'W' => self.copies(),
                _ => {}
            },
        }
    }

    /// The answer to one kind of message. Those to a Query look the same, and do not end it. What stands before it has
    /// had its answer too: poolers leave some out.
    fn answered(&mut self, kind: Unanswered) {
        if let Some(at) = self.unanswered.iter().take_while(|sent| !sent.is_turn()).position(|sent| *sent == kind) {
            self.unanswered.drain(..=at);
            self.trim();
        }
    }

    fn ready(&mut self, status: TransactionStatus) {
        self.status = status;
        if self.mode == Mode::Copying {
            self.mode = Mode::Normal;
        }
        match self.unanswered.iter().position(|sent| sent.is_turn()) {
            Some(turn) => {
                self.unanswered.drain(..=turn);
                self.trim();
            }
            // A Sync that was taken for one that COPY IN swallowed, since its COPY failed before it was read.
            None if self.mode == (Mode::Skipping { more: false }) => {
                self.mode = Mode::Normal;
                self.unsynced = false;
            }
            None => {}
        }
    }

    /// The server asks for COPY data. What it reads until those end it does not answer.
    fn copies(&mut self) {
        while self.unanswered.front().is_some_and(|sent| !sent.is_turn() && *sent != Unanswered::Execute) {
            self.unanswered.pop_front();
        }
        let copy = self.unanswered.pop_front();
        if let Some(end) = self.unanswered.iter().position(|sent| *sent != Unanswered::Sync) {
            // Anything but the end of the data breaks the protocol, unless the COPY fails before it is read.
            let ends = self.unanswered.get(end) == Some(&Unanswered::CopyEnd);
            self.unanswered.drain(..end.saturating_add(usize::from(ends)));
        } else {
            self.unanswered.clear();
            self.mode = Mode::Copying;
        }
        // A Sync that is swallowed ends nothing.
        self.unsynced |= copy == Some(Unanswered::Execute) && !self.unanswered.iter().any(|sent| sent.is_turn());
        if let Some(copy) = copy {
            self.unanswered.push_front(copy);
        }
    }

    /// What the server was at has failed.
    fn failed(&mut self) {
        if self.mode == Mode::Copying {
            self.mode = Mode::Normal;
        }
        match self.unanswered.front() {
            // Its ReadyForQuery follows; a Sync's own failure is that of the transaction that it commits.
            Some(Unanswered::Query | Unanswered::Sync) => return,
            None if !self.unsynced => return,
            _ => {}
        }
        if let Some(sync) = self.unanswered.iter().position(|sent| *sent == Unanswered::Sync) {
            self.unanswered.drain(..sync);
        } else {
            self.unanswered.clear();
            self.mode = Mode::Skipping { more: false };
        }
    }

    /// The end of COPY data where there is nothing that copies: the server ignores it.
    fn trim(&mut self) {
        while self.unanswered.front() == Some(&Unanswered::CopyEnd) {
            self.unanswered.pop_front();
        }
        if self.unanswered.is_empty() && self.unanswered.capacity() > KEPT {
            self.unanswered = VecDeque::new();
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
        !self.running() && !self.unsynced && self.mode == Mode::Normal && self.status == TransactionStatus::Idle
    }

    /// The server is at work for the client.
    pub(super) fn running(&self) -> bool {
        !self.unanswered.is_empty()
    }
}

#[cfg(test)]
#[path = "activity_tests.rs"]
mod tests;
