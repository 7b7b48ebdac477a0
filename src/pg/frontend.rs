//! Typed views on the messages of a client that logs in.

use super::{PacketError, frame::Frame, split_string, u32_at};

/// Whatever a client answers to a request for authentication has this type: which message it is follows from what was
/// asked for.
pub const ANSWER: u8 = b'p';
/// Terminate.
pub const TERMINATE: u8 = b'X';

/// A client's first message of SASL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaslInitialResponse<'a> {
    /// The mechanism that it has chosen.
    pub mechanism: &'a [u8],
    /// The mechanism's first message; `None` where the client waits to be asked for it.
    pub data: Option<&'a [u8]>,
}

/// Reads a SASLInitialResponse.
///
/// # Errors
/// Where its content does not fit.
pub fn sasl_initial_response(frame: &Frame) -> Result<SaslInitialResponse<'_>, PacketError> {
    let malformed = || PacketError::Malformed(char::from(frame.tag));
    let (mechanism, rest) = split_string(frame.body()).ok_or_else(malformed)?;
    let length = u32_at(rest, 0).ok_or_else(malformed)?;
    let data = rest.get(4..).ok_or_else(malformed)?;
    let absent = length == u32::MAX;
    let expected = if absent { Ok(0) } else { usize::try_from(length) };
    if expected != Ok(data.len()) {
        return Err(malformed());
    }
    Ok(SaslInitialResponse { mechanism, data: (!absent).then_some(data) })
}

/// The length of the message whose header this is, without the header, where a client may answer here at all.
///
/// # Errors
/// Where it is another message, or longer than `max_body`.
pub fn answer_length(header: [u8; super::frame::HEADER], max_body: usize) -> Result<usize, PacketError> {
    let [tag, length @ ..] = header;
    if tag != ANSWER {
        return Err(PacketError::Malformed(char::from(tag)));
    }
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| PacketError::Length)?;
    let body = length.checked_sub(4).ok_or(PacketError::Length)?;
    if body > max_body { Err(PacketError::TooLong { length: body, limit: max_body }) } else { Ok(body) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pg::encode;

    fn frame(body: &[u8]) -> Frame {
        Frame { tag: ANSWER, raw: encode::to_bytes(|out| encode::message(ANSWER, body, out)) }
    }

    #[test]
    fn initial_responses() {
        let read = |body: &[u8]| {
            let frame = frame(body);
            sasl_initial_response(&frame).map(|read| (read.mechanism.to_vec(), read.data.map(<[u8]>::to_vec)))
        };
        assert_eq!(read(b"X\0\0\0\0\x02ab"), Ok((b"X".to_vec(), Some(b"ab".to_vec()))));
        assert_eq!(read(b"X\0\0\0\0\0"), Ok((b"X".to_vec(), Some(Vec::new()))));
        assert_eq!(read(b"X\0\xff\xff\xff\xff"), Ok((b"X".to_vec(), None)));
        for wrong in [
            &b""[..],
            b"X",
            b"X\0",
            b"X\0\0\0\0",
            b"X\0\0\0\0\x02a",
            b"X\0\0\0\0\x02abc",
            b"X\0\xff\xff\xff\xffa",
            b"X\0\xff\xff\xff\xfe",
        ] {
            assert_eq!(read(wrong), Err(PacketError::Malformed('p')), "{wrong:?}");
        }
        let raw = encode::to_bytes(|out| encode::sasl_initial_response("SCRAM-SHA-256", b"n,,", out));
        let read = sasl_initial_response(&Frame { tag: ANSWER, raw }).map(|read| read.data.map(<[u8]>::to_vec));
        assert_eq!(read, Ok(Some(b"n,,".to_vec())));
    }

    #[test]
    fn lengths_of_answers() {
        assert_eq!(answer_length(*b"p\0\0\0\x09", 5), Ok(5));
        assert_eq!(answer_length(*b"p\0\0\0\x04", 5), Ok(0));
        assert_eq!(answer_length(*b"p\0\0\0\x0a", 5), Err(PacketError::TooLong { length: 6, limit: 5 }));
        assert_eq!(answer_length(*b"p\0\0\0\x03", 5), Err(PacketError::Length));
        assert_eq!(answer_length(*b"Q\0\0\0\x09", 5), Err(PacketError::Malformed('Q')));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100), header: [u8; 5]) {
            let _ = (sasl_initial_response(&frame(&bytes)), answer_length(header, 50));
        }
    }
}
