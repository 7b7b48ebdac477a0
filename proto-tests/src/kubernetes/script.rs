//! What a node does to a tunnel that a test wants broken: at which point of the server's side, and how.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use super::forward::message;

/// The node's end of a tunnel.
pub(super) type Node = WebSocketStream<TlsStream<TcpStream>>;

/// The most that a node sends at a time.
const CHUNK: usize = 32 * 1024;

/// When a script sets in. Messages are the server's; one is told by how it begins: its type, and as much of the rest
/// as tells it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The stream is open, and nothing has passed.
    Opened,
    /// The first such message has passed whole.
    After(&'static [u8]),
    /// The header of the first such message has passed, and one byte of its body.
    Inside(&'static [u8]),
}

/// One thing that a node does.
#[derive(Clone, Debug)]
pub enum Act {
    /// Bytes on the data channel, as if they were the server's.
    Data(Vec<u8>),
    /// Words on the error channel.
    Error(&'static str),
    /// Any message of the WebSocket.
    Message(Message),
    /// Bytes below the WebSocket's framing.
    Raw(&'static [u8]),
    /// A Close, with a code and its reason, or with none. The node waits for the other side's.
    Close(Option<(u16, &'static str)>),
    /// The TCP connection is reset.
    Reset,
    /// Nothing more is said, and what comes is read and forgotten: a server that hangs.
    Hang,
}

/// What happens to a tunnel, and when. After the last act the connection just ends, without a Close.
#[derive(Clone, Debug)]
pub struct Script {
    pub when: When,
    pub acts: Vec<Act>,
}

impl Script {
    pub(super) fn is_due_at_once(&self) -> bool {
        self.when == When::Opened
    }

    pub(super) async fn play(&self, mut ws: Node) {
        for act in &self.acts {
            // Whoever is gone meanwhile has had its fault.
            let _ = play(&mut ws, act).await;
        }
    }
}

async fn play(ws: &mut Node, act: &Act) -> anyhow::Result<()> {
    match act {
        Act::Data(bytes) => {
            for chunk in bytes.chunks(CHUNK) {
                ws.send(message(0, chunk)).await?;
            }
        }
        Act::Error(text) => ws.send(message(1, text.as_bytes())).await?,
        Act::Message(other) => ws.send(other.clone()).await?,
        Act::Raw(bytes) => {
            ws.get_mut().write_all(bytes).await?;
            ws.get_mut().flush().await?;
        }
        Act::Close(frame) => {
            let frame = frame.map(|(code, reason)| CloseFrame { code: CloseCode::from(code), reason: reason.into() });
            ws.close(frame).await?;
            drain(ws).await;
        }
        Act::Reset => ws.get_ref().get_ref().0.set_zero_linger()?,
        Act::Hang => drain(ws).await,
    }
    Ok(())
}

async fn drain(ws: &mut Node) {
    while let Some(Ok(_)) = ws.next().await {}
}

/// Finds the point in the server's bytes where a script sets in.
#[derive(Debug)]
pub(super) struct Onset {
    when: When,
    /// The message that is passing, as far as it has passed.
    message: Vec<u8>,
}

impl Onset {
    pub(super) fn of(script: &Script) -> Self {
        Self { when: script.when, message: Vec::new() }
    }

    /// How many of these bytes pass before the script sets in; `None` where all do.
    pub(super) fn within(&mut self, bytes: &[u8]) -> Option<usize> {
        let (start, inside) = match self.when {
            When::Opened => return Some(0),
            When::After(start) => (start, false),
            When::Inside(start) => (start, true),
        };
        for (index, byte) in bytes.iter().enumerate() {
            self.message.push(*byte);
            let Some(length) = self.message.get(1..5) else { continue };
            let whole = self.message.len() == 1 + u32::from_be_bytes(length.try_into().unwrap()) as usize;
            let far_enough = whole || (inside && self.message.len() > 5);
            if far_enough && self.message.starts_with(start) {
                return Some(index + 1);
            }
            if whole {
                self.message.clear();
            }
        }
        None
    }
}
