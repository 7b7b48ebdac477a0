//! The pipe: bytes both ways until one side ends, the server is lost, or the session is asked to end.
//!
//! Bytes are never copied to be decoded; only the five-byte message headers are walked, so that the pipe knows
//! message boundaries (a FATAL of ours may only stand between two messages), whose turn it is, and a FATAL of the
//! server's. It never half-closes: a port-forward has no such thing, and loses what is under way.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
};

use super::{activity::Activity, client::ClientStream};
use crate::{
    pg::walk::{Seen, Walker},
    upstream::BoxedStream,
};

/// What an idle session keeps for the client's next bytes: most requests fit.
const SMALL: usize = 8 * 1024;
/// What a busy one grows to: measured, 64 KiB is where larger buffers stop saving CPU, and what one tunnel frame
/// may hold.
const LARGE: usize = 64 * 1024;

/// Why the transfer stopped.
#[derive(Debug)]
pub(super) enum Stopped {
    /// The client sent Terminate, and has the answers to what stood before it.
    Terminated,
    /// The client's stream ended without one, or takes no answers.
    ClientGone,
    /// The server said a FATAL, and it has been passed on.
    Fatal,
    /// The server's stream ended.
    ServerClosed,
    /// The way to the server is lost.
    Lost(io::Error),
    /// The session was asked to end, and is idle.
    Idle,
}

/// Whether the transfer stops as soon as the session is idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// It goes on.
    Ended,
    /// It stops.
    Idle,
}

/// Bytes on their way to the server.
struct Outgoing {
    data: Box<[u8]>,
    filled: usize,
    sent: usize,
}

impl Outgoing {
    fn unsent(&self) -> &[u8] {
        self.data.get(self.sent..self.filled).unwrap_or_default()
    }

    /// Makes room for the next read: as small as the last read was, so that idle sessions cost little.
    fn reset(&mut self) {
        let size = if self.filled == self.data.len() { LARGE } else { self.data.len() };
        (self.filled, self.sent) = (0, 0);
        if size != self.data.len() {
            self.data = vec![0; size].into_boxed_slice();
        }
    }

    /// Gives back what a bulk load needed.
    fn shrink(&mut self) {
        if self.data.len() > SMALL && self.unsent().is_empty() {
            *self = Self { data: vec![0; SMALL].into_boxed_slice(), filled: 0, sent: 0 };
        }
    }
}

/// Both streams and what has passed between them.
pub(super) struct Pipe {
    pub(super) client: ClientStream,
    pub(super) upstream: BoxedStream,
    outgoing: Outgoing,
    to_server: Walker,
    to_client: Walker,
    prefix: Bytes,
    activity: Activity,
    unflushed_up: bool,
    unflushed_down: bool,
    upstream_refuses: bool,
    /// Bytes to the server.
    pub(super) bytes_up: u64,
    /// Bytes to the client.
    pub(super) bytes_down: u64,
    cancelled: Arc<watch::Sender<u64>>,
}

impl Pipe {
    /// `early` came from the client before the server was ready; `prefix` from the server behind ReadyForQuery.
    /// `cancelled` counts the 57014 errors that pass.
    pub(super) fn new(
        client: ClientStream,
        upstream: BoxedStream,
        early: &BytesMut,
        prefix: Bytes,
        cancelled: Arc<watch::Sender<u64>>,
    ) -> Self {
        let mut activity = Activity::new();
        let mut to_server = Walker::frontend();
        walk_up(&mut to_server, &mut activity, early);
        let size = early.len().max(SMALL);
        let mut data = vec![0; size].into_boxed_slice();
        if let Some(room) = data.get_mut(..early.len()) {
            room.copy_from_slice(early);
        }
        Self {
            client,
            upstream,
            outgoing: Outgoing { data, filled: early.len(), sent: 0 },
            to_server,
            to_client: Walker::backend(),
            prefix,
            activity,
            unflushed_up: false,
            unflushed_down: false,
            upstream_refuses: false,
            bytes_up: 0,
            bytes_down: 0,
            cancelled,
        }
    }

    /// Moves bytes until something ends. Cancel-safe: nothing is lost when the future is dropped.
    pub(super) async fn transfer(&mut self, until: Until) -> Stopped {
        poll_fn(|cx| self.poll_transfer(cx, until)).await
    }

    /// The server is at work on something of the client's.
    pub(super) fn running(&self) -> bool {
        self.activity.running()
    }

    /// A message of ours may be written to the client.
    pub(super) fn at_boundary(&self) -> bool {
        self.to_client.at_boundary()
    }

    /// A message of ours may be written to the server.
    pub(super) fn at_client_boundary(&self) -> bool {
        self.to_server.at_boundary() && self.outgoing.unsent().is_empty()
    }

    /// The server waits for the client, outside of a transaction, and nothing is on its way.
    pub(super) fn idle(&self) -> bool {
        self.activity.idle() && self.at_client_boundary() && self.prefix.is_empty() && self.at_boundary()
    }

    fn poll_transfer(&mut self, cx: &mut Context<'_>, until: Until) -> Poll<Stopped> {
        // The client first: what it has sent makes the session busy, and must not be answered with a goodbye.
        if let Poll::Ready(stopped) = self.poll_up(cx) {
            return Poll::Ready(stopped);
        }
        match self.poll_down(cx) {
            // It closes when it has read Terminate.
            Poll::Ready(Stopped::ServerClosed) if self.activity.terminated() && self.at_boundary() => {
                return Poll::Ready(Stopped::Terminated);
            }
            Poll::Ready(stopped) => return Poll::Ready(stopped),
            Poll::Pending => {}
        }
        if self.is_over() {
            return Poll::Ready(Stopped::Terminated);
        }
        if self.idle() {
            self.outgoing.shrink();
            if until == Until::Idle {
                return Poll::Ready(Stopped::Idle);
            }
        }
        Poll::Pending
    }

    /// The client has said goodbye, the server has it, and all answers have passed. A port-forward reports the server's
    /// close a second late: nobody need wait for it.
    fn is_over(&self) -> bool {
        let sent = self.upstream_refuses || (self.outgoing.unsent().is_empty() && !self.unflushed_up);
        self.activity.terminated() && sent && !self.running() && self.prefix.is_empty() && self.at_boundary()
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Stopped> {
        loop {
            while !self.outgoing.unsent().is_empty() && !self.upstream_refuses {
                match ready!(Pin::new(&mut self.upstream).poll_write(cx, self.outgoing.unsent())) {
                    Ok(sent) if sent > 0 => {
                        self.outgoing.sent += sent;
                        self.bytes_up += sent as u64;
                        self.unflushed_up = true;
                    }
                    // The server may have said why before it closed: reading on tells.
                    Ok(_) | Err(_) => self.upstream_refuses = true,
                }
            }
            if self.activity.terminated() {
                // Nothing of what the client may still send means anything, nor does its end: as with PostgreSQL itself
                // what it asked for before is done, and answered as long as it listens.
                ready!(self.poll_flush_up(cx));
                return Poll::Pending;
            }
            self.outgoing.reset();
            let mut room = ReadBuf::new(&mut self.outgoing.data);
            match Pin::new(&mut self.client).poll_read(cx, &mut room) {
                Poll::Pending => {
                    ready!(self.poll_flush_up(cx));
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) if !room.filled().is_empty() => {
                    walk_up(&mut self.to_server, &mut self.activity, room.filled());
                    self.outgoing.filled = room.filled().len();
                }
                Poll::Ready(Ok(()) | Err(_)) => return Poll::Ready(Stopped::ClientGone),
            }
        }
    }

    fn poll_flush_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.unflushed_up && !self.upstream_refuses {
            let flushed = ready!(Pin::new(&mut self.upstream).poll_flush(cx));
            self.upstream_refuses = flushed.is_err();
            self.unflushed_up = false;
        }
        Poll::Ready(())
    }

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Stopped> {
        loop {
            if self.activity.fatal() && self.at_boundary() {
                return Poll::Ready(Stopped::Fatal);
            }
            let Self { client, upstream, prefix, .. } = self;
            let chunk = if prefix.is_empty() {
                match Pin::new(upstream).poll_fill_buf(cx) {
                    Poll::Ready(Ok([])) => return Poll::Ready(Stopped::ServerClosed),
                    Poll::Ready(Ok(chunk)) => chunk,
                    Poll::Ready(Err(error)) => return Poll::Ready(Stopped::Lost(error)),
                    Poll::Pending => {
                        if self.unflushed_down && ready!(Pin::new(client).poll_flush(cx)).is_err() {
                            return Poll::Ready(Stopped::ClientGone);
                        }
                        self.unflushed_down = false;
                        return Poll::Pending;
                    }
                }
            } else {
                prefix.as_ref()
            };
            let written = match Pin::new(client).poll_write(cx, chunk) {
                Poll::Ready(Ok(written @ 1..)) => written,
                Poll::Ready(_) => return Poll::Ready(Stopped::ClientGone),
                Poll::Pending => {
                    // Nobody reads the way to the server now: this keeps it alive. Its end is met in reading.
                    let _ = Pin::new(&mut self.upstream).poll_flush(cx);
                    return Poll::Pending;
                }
            };
            let passed = chunk.get(..written).unwrap_or_default();
            let (activity, cancelled) = (&mut self.activity, &self.cancelled);
            // A length that no server sends makes the walker report no boundary from here on; the bytes still pass.
            let _ = self.to_client.feed(passed, |seen| {
                if matches!(seen, Seen::Error { sqlstate, .. } if sqlstate == *b"57014") {
                    cancelled.send_modify(|count| *count += 1);
                }
                activity.server_sends(seen);
            });
            self.unflushed_down = true;
            self.bytes_down += written as u64;
            if self.prefix.is_empty() {
                Pin::new(&mut self.upstream).consume(written);
            } else {
                self.prefix.advance(written);
            }
        }
    }
}

fn walk_up(walker: &mut Walker, activity: &mut Activity, bytes: &[u8]) {
    // As above: what cannot be walked is the server's to refuse.
    let _ = walker.feed(bytes, |seen| {
        if let Seen::Message { tag, .. } = seen {
            activity.client_sends(tag);
        }
    });
}
