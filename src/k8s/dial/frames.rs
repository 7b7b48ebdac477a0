//! The messages of a port-forward over a WebSocket (`v4.channel.k8s.io`; Kubernetes'
//! `cri-streaming/pkg/streaming/portforward/websocket.go`): one byte of channel, then the payload. Channel 0 is the
//! port's data, channel 1 its errors; the first message of each repeats the port's number, little-endian.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The data channel of the first port.
const DATA: u8 = 0;
/// The error channel of the first port.
const ERROR: u8 = 1;

/// What a message is.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// Nothing to pass on: a port check, or an empty message.
    Nothing,
    /// Bytes of the server's.
    Data(Bytes),
    /// The node's words about what went wrong.
    Error(String),
}

/// A message that breaks the protocol.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError {
    /// No channel byte.
    #[error("an empty message")]
    Empty,
    /// A channel that was not opened.
    #[error("a message on channel {0}, which was not opened")]
    Channel(u8),
    /// The first message of a channel is not the port's number.
    #[error("another port than the one asked for")]
    Port,
}

/// Reads messages.
#[derive(Debug)]
pub struct Demultiplexer {
    port: u16,
    checked: [bool; 2],
}

impl Demultiplexer {
    /// For a stream to this port.
    #[must_use]
    pub fn new(port: u16) -> Self {
        Self { port, checked: [false; 2] }
    }

    /// Takes one message.
    ///
    /// # Errors
    /// Where it breaks the protocol; the stream is of no more use.
    pub fn receive(&mut self, mut message: Bytes) -> Result<Received, TunnelError> {
        let channel = *message.first().ok_or(TunnelError::Empty)?;
        let checked = self.checked.get_mut(usize::from(channel)).ok_or(TunnelError::Channel(channel))?;
        message.advance(1);
        if !std::mem::replace(checked, true) {
            return if *message == self.port.to_le_bytes() { Ok(Received::Nothing) } else { Err(TunnelError::Port) };
        }
        Ok(match channel {
            _ if message.is_empty() => Received::Nothing,
            ERROR => Received::Error(String::from_utf8_lossy(&message).into_owned()),
            _ => Received::Data(message),
        })
    }
}

/// The message that carries these bytes to the server.
#[must_use]
pub fn data(bytes: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(bytes.len() + 1);
    message.put_u8(DATA);
    message.put_slice(bytes);
    message.freeze()
}

/// A message that says nothing to anybody: the node's runtime ends streams that are silent for four hours, pings do
/// not count, and an empty message on the error channel does.
#[must_use]
pub fn keepalive() -> Bytes {
    Bytes::from_static(&[ERROR])
}

/// Fuzzing's way in: every message of a made-up stream.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let mut demultiplexer = Demultiplexer::new(5432);
    for chunk in bytes.split(|byte| *byte == 0xff) {
        let _ = demultiplexer.receive(Bytes::copy_from_slice(chunk));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn receive(demultiplexer: &mut Demultiplexer, message: &[u8]) -> Result<Received, TunnelError> {
        demultiplexer.receive(Bytes::copy_from_slice(message))
    }

    #[test]
    fn the_first_message_of_each_channel_is_the_port() {
        let mut it = Demultiplexer::new(5432);
        assert_eq!(receive(&mut it, &[0, 0x38, 0x15]), Ok(Received::Nothing));
        assert_eq!(receive(&mut it, b"\0\x38\x15"), Ok(Received::Data(Bytes::from_static(b"\x38\x15"))));
        assert_eq!(receive(&mut it, &[1, 0x38, 0x15]), Ok(Received::Nothing));
        assert_eq!(receive(&mut it, b"\x01refused"), Ok(Received::Error("refused".into())));
        assert_eq!(receive(&mut it, &[0]), Ok(Received::Nothing));
    }

    #[test]
    fn what_breaks_the_protocol() {
        assert_eq!(receive(&mut Demultiplexer::new(1), &[]), Err(TunnelError::Empty));
        assert_eq!(receive(&mut Demultiplexer::new(1), &[2, 1, 0]), Err(TunnelError::Channel(2)));
        assert_eq!(receive(&mut Demultiplexer::new(1), &[0, 2, 0]), Err(TunnelError::Port));
        assert_eq!(receive(&mut Demultiplexer::new(1), &[0, 1]), Err(TunnelError::Port));
    }

    #[test]
    fn the_corpus_of_fuzzing() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("proto-tests/corpus/tunnel");
        let files: Vec<_> = std::fs::read_dir(folder).expect("the corpus").collect();
        assert!(!files.is_empty());
        for file in files {
            fuzz(&std::fs::read(file.expect("an entry").path()).expect("a file"));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            fuzz(&bytes);
        }
    }
}
