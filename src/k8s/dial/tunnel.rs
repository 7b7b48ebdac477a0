//! A port-forward as a byte stream. One WebSocket carries one connection, so a stalled reader holds up nobody else.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
    time::{Instant, Sleep, sleep_until},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::frame::coding::CloseCode},
};

use crate::{
    error::{Report, SqlState},
    k8s::dial::{
        ends::{closed, node_says, why},
        frames::{Demultiplexer, Received, data, keepalive},
        on_the_way::OnTheWay,
    },
    upstream::{Failure, PodId, Retry},
};

/// The most that one message carries: beyond 64 KiB nothing is gained, and the node holds a message whole.
const MAX_PAYLOAD: usize = 64 * 1024 - 1;

/// Bytes behind which the node still reads a ping when its server reads nothing: the server's own socket takes as many.
/// Where more are on the way, a ping may wait as long as they do.
const TAKEN: usize = 64 * 1024;

/// What is read ahead while nobody takes what has arrived. The end of a result fits, mostly, and a pong behind it is
/// heard; where more comes, all that is still known of the link is that it takes pings.
const AHEAD: usize = 64 * 1024;

/// How long after a break a link is waited for that does not answer: a network that is there again answers within some
/// round trips, and whoever opens the lid types a query in the next seconds.
const AFTER_BREAK: Duration = Duration::from_secs(10);

/// The next break: the machine slept, or this process was stopped.
type NextBreak = Pin<Box<dyn Future<Output = watch::Receiver<u64>> + Send>>;

fn next_break(mut breaks: watch::Receiver<u64>) -> NextBreak {
    Box::pin(async move {
        match breaks.changed().await {
            Ok(()) => breaks,
            Err(_) => std::future::pending().await,
        }
    })
}

/// When a silent tunnel is looked after.
#[derive(Clone, Copy, Debug)]
pub struct Liveness {
    /// Silence before a ping: below what NATs and load balancers forget.
    pub ping_after: Duration,
    /// Silence after which the link is dead, counted only while little of ours is on the way: a COPY that waits for a
    /// lock cannot answer a ping, because the node does not read on. Whether such a link is dead is left to TCP, which
    /// gives up after some 15 minutes of retransmissions, as with any server.
    pub dead_after: Duration,
    /// Silence of data before the node is reminded of the stream, which it ends after four hours.
    pub remind_after: Duration,
}

/// A byte stream through a WebSocket to one port of a pod. One task polls it. While that does not read it flushes, so that
/// the link is looked after all the same.
pub(in crate::k8s) struct Tunnel<S> {
    ws: WebSocketStream<S>,
    pod: PodId,
    demultiplexer: Demultiplexer,
    payload: Bytes,
    /// What has come behind the payload.
    ahead: VecDeque<Bytes>,
    ahead_bytes: usize,
    /// An end that was met while reading ahead.
    failed: Option<io::Error>,
    ended: bool,
    on_the_way: OnTheWay,
    liveness: Liveness,
    heard: Instant,
    pinged: Option<Instant>,
    next_break: NextBreak,
    /// There was a break, and nothing has been heard since.
    doubted: bool,
    data_at: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Tunnel<S> {
    /// `breaks` changes when what was open before is not to be trusted; one that came while this was opened counts.
    pub(in crate::k8s) fn new(
        ws: WebSocketStream<S>,
        pod: PodId,
        port: u16,
        liveness: Liveness,
        breaks: watch::Receiver<u64>,
    ) -> Self {
        let now = Instant::now();
        Self {
            ws,
            pod,
            demultiplexer: Demultiplexer::new(port),
            payload: Bytes::new(),
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            failed: None,
            ended: false,
            on_the_way: OnTheWay::new(now),
            liveness,
            heard: now,
            pinged: None,
            next_break: next_break(breaks),
            doubted: false,
            data_at: now,
            timer: Box::pin(sleep_until(now + liveness.ping_after)),
        }
    }

    fn lost(&self, why: &str) -> io::Error {
        io::Error::other(Failure {
            report: Report::fatal(
                SqlState::CONNECTION_FAILURE,
                format!("the tunnel to pod {} was lost: {why}", self.pod.name),
            )
            .hint("Connect again"),
            retry: Retry::Resolve,
        })
    }

    /// Takes the next message in, if there is one.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let message = match ready!(Pin::new(&mut self.ws).poll_next(cx)) {
            Some(Ok(message)) => message,
            // The socket's end after a close.
            None => {
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            Some(Err(error)) => {
                self.ended = true;
                return Poll::Ready(Err(self.lost(&why(&error))));
            }
        };
        self.heard = Instant::now();
        self.pinged = None;
        self.doubted = false;
        self.on_the_way.heard(self.heard);
        match message {
            Message::Binary(bytes) => match self.demultiplexer.receive(bytes) {
                Ok(Received::Nothing) => {}
                Ok(Received::Data(bytes)) => {
                    self.data_at = self.heard;
                    self.ahead_bytes += bytes.len();
                    self.ahead.push_back(bytes);
                }
                Ok(Received::Error(text)) => {
                    self.ended = true;
                    return Poll::Ready(Err(io::Error::other(node_says(&self.pod, &text))));
                }
                Err(error) => {
                    self.ended = true;
                    return Poll::Ready(Err(self.lost(&error.to_string())));
                }
            },
            Message::Close(frame) => {
                self.ended = true;
                // Nodes close with 1000 when the server has; any other code is somebody else's end.
                if let Some(frame) = frame.filter(|frame| frame.code != CloseCode::Normal) {
                    return Poll::Ready(Err(self.lost(&closed(&frame))));
                }
            }
            Message::Text(_) => {
                self.ended = true;
                return Poll::Ready(Err(self.lost("a text message came, where all are binary")));
            }
            _ => {}
        }
        Poll::Ready(Ok(()))
    }

    /// What comes behind what nobody takes, as far as there is room; pings and reminders where nothing comes.
    fn poll_unread(&mut self, cx: &mut Context<'_>) {
        while !self.ended && self.is_listening() {
            match self.poll_message(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => self.failed = Some(error),
                Poll::Pending => break,
            }
        }
        if !self.ended
            && let Poll::Ready(error) = self.poll_liveness(cx)
        {
            self.failed = Some(error);
        }
    }

    /// There is room for what may still come: silence is the other side's.
    fn is_listening(&self) -> bool {
        self.ahead_bytes < AHEAD
    }

    /// Goes on to what was read ahead; false where there is nothing.
    fn next_payload(&mut self) -> bool {
        if !self.is_listening() {
            // Nobody can have answered meanwhile.
            self.heard = Instant::now();
            self.pinged = None;
        }
        let Some(next) = self.ahead.pop_front() else { return false };
        self.ahead_bytes -= next.len();
        self.payload = next;
        true
    }

    /// Pings and reminders, while nothing arrives. Registers the timer, and waits for a break.
    fn poll_liveness(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        while let Poll::Ready(breaks) = self.next_break.as_mut().poll(cx) {
            self.next_break = next_break(breaks);
            // A ping from before may have gone nowhere.
            (self.doubted, self.pinged) = (true, None);
        }
        let listening = self.is_listening();
        loop {
            let now = Instant::now();
            if let Some(pinged) = self.pinged.filter(|_| listening && self.on_the_way.bytes <= TAKEN)
                && now >= self.dead_at(pinged)
            {
                self.ended = true;
                return Poll::Ready(self.lost(&self.silence(now, pinged)));
            }
            if self.ping_at(listening).is_some_and(|at| at <= now) && self.send_now(cx, Message::Ping(Bytes::new())) {
                self.pinged = Some(now);
            }
            if now.duration_since(self.data_at) >= self.liveness.remind_after
                && self.send_now(cx, Message::Binary(keepalive()))
            {
                self.data_at = now;
            }
            let waited = self.pinged.map(|pinged| self.dead_at(pinged));
            let next = self.ping_at(listening).or(waited).unwrap_or(now);
            let due = next.min(self.data_at + self.liveness.remind_after);
            // What is due and cannot be sent waits for the socket; look again in a while.
            let again = if self.doubted { AFTER_BREAK } else { self.liveness.ping_after };
            let due = if due <= now { now + again } else { due };
            if self.timer.deadline() != due {
                self.timer.as_mut().reset(due);
            }
            ready!(self.timer.as_mut().poll(cx));
        }
    }

    /// When a ping is due; `None` while an answer to the last one may come.
    fn ping_at(&self, listening: bool) -> Option<Instant> {
        match self.pinged {
            // Long ago: now.
            None if self.doubted => Some(self.heard),
            None => Some(self.heard + self.liveness.ping_after),
            Some(_) if listening => None,
            // To whom we do not listen pings are sent for those in between, who forget silent connections.
            Some(pinged) => Some(pinged + self.liveness.ping_after),
        }
    }

    /// When the link is given up, if nothing is heard after that ping.
    fn dead_at(&self, pinged: Instant) -> Instant {
        if self.doubted {
            pinged + AFTER_BREAK.min(self.liveness.dead_after)
        } else {
            self.heard + self.liveness.dead_after
        }
    }

    fn silence(&self, now: Instant, pinged: Instant) -> String {
        if self.doubted {
            let silent = now.duration_since(pinged).as_secs();
            return format!("nothing was heard for {silent} s after this machine or pgferry had slept");
        }
        format!("nothing was heard for {} s", now.duration_since(self.heard).as_secs())
    }

    /// Queues a message of our own, if the socket takes it now.
    fn send_now(&mut self, cx: &mut Context<'_>, message: Message) -> bool {
        if !matches!(Pin::new(&mut self.ws).poll_ready(cx), Poll::Ready(Ok(()))) {
            return false;
        }
        let sent = Pin::new(&mut self.ws).start_send(message).is_ok();
        // What does not leave at once leaves with the next flush; an error shows up in reading.
        let _ = Pin::new(&mut self.ws).poll_flush(cx);
        sent
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncBufRead for Tunnel<S> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        while this.payload.is_empty() {
            if this.next_payload() {
                break;
            }
            if let Some(error) = this.failed.take() {
                return Poll::Ready(Err(error));
            }
            if this.ended {
                break;
            }
            match this.poll_message(cx) {
                Poll::Ready(result) => result?,
                Poll::Pending => return Poll::Ready(Err(ready!(this.poll_liveness(cx)))),
            }
        }
        Poll::Ready(Ok(&this.payload))
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        self.get_mut().payload.advance(amount);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let available = ready!(self.as_mut().poll_fill_buf(cx))?;
        let take = available.len().min(buf.remaining());
        buf.put_slice(available.get(..take).unwrap_or_default());
        self.consume(take);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // An end may have been read ahead, behind words that tell why: they come first, so reading is where it is told.
        if this.ended {
            return Poll::Ready(Ok(buf.len()));
        }
        if let Err(error) = ready!(Pin::new(&mut this.ws).poll_ready(cx)) {
            return Poll::Ready(Err(this.lost(&why(&error))));
        }
        let take = buf.len().min(MAX_PAYLOAD);
        let message = Message::Binary(data(buf.get(..take).unwrap_or_default()));
        if let Err(error) = Pin::new(&mut this.ws).start_send(message) {
            return Poll::Ready(Err(this.lost(&why(&error))));
        }
        this.data_at = Instant::now();
        this.on_the_way.written(take, this.data_at);
        Poll::Ready(Ok(take))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.poll_unread(cx);
        if this.ended {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.ws).poll_flush(cx).map_err(|error| this.lost(&why(&error)))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        Pin::new(&mut this.ws).poll_close(cx).map_err(|error| this.lost(&why(&error)))
    }
}

#[cfg(test)]
#[path = "tunnel_tests.rs"]
mod tests;
