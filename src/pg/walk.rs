//! Walks the headers of a passing stream of messages: no copy, no buffering of bodies, no work inside one.

use super::{PacketError, TransactionStatus, frame::HEADER};

/// The severity and code of an ErrorResponse stand at its beginning: PostgreSQL writes S, V and C first.
const KEPT: usize = 128;

/// What passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A message begins.
    Message {
        /// Its type.
        tag: u8,
        /// The length of its body.
        len: u32,
    },
    /// A ReadyForQuery has passed.
    Ready(TransactionStatus),
    /// An ErrorResponse has passed, or at least what tells which.
    Error {
        /// It ends the session.
        fatal: bool,
        /// Its code.
        sqlstate: [u8; 5],
    },
}

/// Where in the stream we are.
#[derive(Debug)]
enum State {
    /// Inside a header, this many bytes of it seen.
    Header(usize),
    /// Inside a body, this many bytes of it to come.
    Body(u32),
    /// After a length that no message has: never again at a boundary.
    Lost,
}

/// Follows one direction.
#[derive(Debug)]
pub struct Walker {
    state: State,
    header: [u8; HEADER],
    /// The beginning of a body that is looked at.
    kept: Vec<u8>,
    looks: bool,
}

impl Walker {
    /// For a server's messages: looks into ReadyForQuery and ErrorResponse.
    #[must_use]
    pub fn backend() -> Self {
        Self { state: State::Header(0), header: [0; HEADER], kept: Vec::new(), looks: true }
    }

    /// For a client's messages: looks into none.
    #[must_use]
    pub fn frontend() -> Self {
        Self { looks: false, ..Self::backend() }
    }

    /// Whether the last byte ended a message.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        matches!(self.state, State::Header(0))
    }

    /// Goes on over the next bytes.
    ///
    /// # Errors
    /// At a length below 4; from then on there are no boundaries.
    pub fn feed(&mut self, mut bytes: &[u8], mut see: impl FnMut(Seen)) -> Result<(), PacketError> {
        while !bytes.is_empty() {
            match self.state {
                State::Header(seen) => bytes = self.feed_header(seen, bytes, &mut see)?,
                State::Body(to_come) => bytes = self.feed_body(to_come, bytes, &mut see),
                State::Lost => return Err(PacketError::Length),
            }
        }
        Ok(())
    }

    fn feed_header<'a>(
        &mut self,
        seen: usize,
        bytes: &'a [u8],
        see: &mut impl FnMut(Seen),
    ) -> Result<&'a [u8], PacketError> {
        let room = self.header.get_mut(seen..).unwrap_or_default();
        let take = room.len().min(bytes.len());
        let (taken, rest) = bytes.split_at(take);
        room.iter_mut().zip(taken).for_each(|(to, from)| *to = *from);
        let seen = seen.saturating_add(take);
        if seen < HEADER {
            self.state = State::Header(seen);
            return Ok(rest);
        }
        let [tag, a, b, c, d] = self.header;
        let Some(len) = u32::from_be_bytes([a, b, c, d]).checked_sub(4) else {
            self.state = State::Lost;
            return Err(PacketError::Length);
        };
        self.kept.clear();
        self.state = State::Body(len);
        see(Seen::Message { tag, len });
        if len == 0 {
            self.state = State::Header(0);
        }
        Ok(rest)
    }

    fn feed_body<'a>(&mut self, to_come: u32, bytes: &'a [u8], see: &mut impl FnMut(Seen)) -> &'a [u8] {
        let take = usize::try_from(to_come).unwrap_or(usize::MAX).min(bytes.len());
        let (taken, rest) = bytes.split_at(take);
        let [tag, ..] = self.header;
        let keeps = self.looks && matches!(tag, b'E' | b'Z');
        if keeps {
            let room = KEPT.saturating_sub(self.kept.len());
            self.kept.extend(taken.iter().take(room));
        }
        let to_come = to_come.saturating_sub(u32::try_from(take).unwrap_or(u32::MAX));
        self.state = if to_come == 0 { State::Header(0) } else { State::Body(to_come) };
        if to_come == 0 && keeps {
            match tag {
                b'Z' => {
                    if let Some(status) = self.kept.first().copied().and_then(TransactionStatus::from_byte) {
                        see(Seen::Ready(status));
                    }
                }
                _ => see(error(&self.kept)),
            }
            self.kept = Vec::new();
        }
        rest
    }
}

/// Severity and code from the beginning of an ErrorResponse's body.
fn error(mut body: &[u8]) -> Seen {
    let (mut fatal, mut sqlstate) = (false, *b"XX000");
    while let Some((field, after)) = body.split_first()
        && let Some((value, after)) = super::split_string(after)
    {
        match field {
            // V is never translated, and S stands before it where both are there.
            b'S' | b'V' => fatal = matches!(value, b"FATAL" | b"PANIC"),
            b'C' => sqlstate = value.try_into().unwrap_or(sqlstate),
            _ => {}
        }
        body = after;
    }
    Seen::Error { fatal, sqlstate }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        error::{Report, SqlState},
        pg::encode,
    };

    fn stream() -> BytesMut {
        let mut out = BytesMut::new();
        encode::message(b'D', &vec![7; 70_000], &mut out);
        encode::message(b'Z', b"T", &mut out);
        encode::report(&Report::fatal(SqlState::ADMIN_SHUTDOWN, "m".repeat(500)), &mut out);
        encode::message(b'1', b"", &mut out);
        encode::message(b'Z', b"I", &mut out);
        out
    }

    fn walk(chunks: &[&[u8]]) -> Vec<Seen> {
        let mut walker = Walker::backend();
        let mut seen = Vec::new();
        for chunk in chunks {
            walker.feed(chunk, |what| seen.push(what)).expect("valid lengths");
        }
        assert!(walker.at_boundary());
        seen
    }

    #[test]
    fn sees_messages_however_they_are_cut() {
        let stream = stream();
        let whole = walk(&[&stream]);
        assert_eq!(whole.len(), 8);
        assert_eq!(whole[2], Seen::Ready(TransactionStatus::InTransaction));
        assert_eq!(whole[4], Seen::Error { fatal: true, sqlstate: *b"57P01" });
        for size in [1, 2, 3, 5, 7, 4096] {
            assert_eq!(walk(&stream.chunks(size).collect::<Vec<_>>()), whole, "chunks of {size}");
        }
    }

    #[test]
    fn a_boundary_is_only_between_messages() {
        let mut walker = Walker::backend();
        let stream = stream();
        walker.feed(&stream[..70_004], |_| ()).expect("valid");
        assert!(!walker.at_boundary());
        walker.feed(&stream[70_004..70_005], |_| ()).expect("valid");
        assert!(walker.at_boundary());
    }

    #[test]
    fn a_length_that_lies_ends_all_boundaries() {
        let mut walker = Walker::frontend();
        assert_eq!(walker.feed(b"Q\0\0\0\x03", |_| ()), Err(PacketError::Length));
        assert!(!walker.at_boundary());
        assert!(walker.feed(b"Q\0\0\0\x04", |_| ()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..9)) {
            let mut walker = Walker::backend();
            for chunk in chunks {
                let _ = walker.feed(&chunk, |_| ());
            }
        }
    }
}
