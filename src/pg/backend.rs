//! Typed views on the messages of a server that logs in.

use bytes::{BufMut, Bytes, BytesMut};

use super::{PacketError, TransactionStatus, cancel::CancelKey, encode, frame::Frame, split_string, u32_at};

/// What an Authentication message asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// Nothing more.
    Ok,
    /// The password as it is.
    CleartextPassword,
    /// The password hashed with this salt.
    Md5Password([u8; 4]),
    /// One of these SASL mechanisms.
    Sasl(Vec<String>),
    /// The next step of SASL.
    SaslContinue(Bytes),
    /// The last step of SASL.
    SaslFinal(Bytes),
    /// What pgferry cannot do.
    Unsupported(&'static str),
}

fn malformed(frame: &Frame) -> PacketError {
    PacketError::Malformed(char::from(frame.tag))
}

/// Reads an Authentication message (`R`).
///
/// # Errors
/// Where its content does not fit.
pub fn authentication(frame: &Frame) -> Result<Authentication, PacketError> {
    let body = frame.raw.slice(super::frame::HEADER.min(frame.raw.len())..);
    let code = u32_at(&body, 0).ok_or_else(|| malformed(frame))?;
    let rest = body.slice(4..);
    Ok(match code {
        0 => Authentication::Ok,
        3 => Authentication::CleartextPassword,
        5 => Authentication::Md5Password(rest.as_ref().try_into().map_err(|_| malformed(frame))?),
        10 => Authentication::Sasl(mechanisms(&rest).ok_or_else(|| malformed(frame))?),
        11 => Authentication::SaslContinue(rest),
        12 => Authentication::SaslFinal(rest),
        2 => Authentication::Unsupported("Kerberos V5"),
        7 | 8 => Authentication::Unsupported("GSSAPI"),
        9 => Authentication::Unsupported("SSPI"),
        _ => Authentication::Unsupported("an unknown method"),
    })
}

fn mechanisms(mut rest: &[u8]) -> Option<Vec<String>> {
    let mut all = Vec::new();
    loop {
        let (name, after) = split_string(rest)?;
        if name.is_empty() {
            return Some(all);
        }
        all.push(String::from_utf8_lossy(name).into_owned());
        rest = after;
    }
}

/// Reads a ParameterStatus (`S`): name and value.
///
/// # Errors
/// Where its content does not fit.
pub fn parameter_status(frame: &Frame) -> Result<(&[u8], &[u8]), PacketError> {
    let (name, rest) = split_string(frame.body()).ok_or_else(|| malformed(frame))?;
    let (value, _) = split_string(rest).ok_or_else(|| malformed(frame))?;
    Ok((name, value))
}

/// Reads a BackendKeyData (`K`).
///
/// # Errors
/// Where the key is not 4 to 256 bytes long.
pub fn backend_key_data(frame: &Frame) -> Result<CancelKey, PacketError> {
    CancelKey::parse(frame.body())
}

/// Reads a ReadyForQuery (`Z`).
///
/// # Errors
/// Where its content does not fit.
pub fn ready_for_query(frame: &Frame) -> Result<TransactionStatus, PacketError> {
    match frame.body() {
        [status] => TransactionStatus::from_byte(*status).ok_or_else(|| malformed(frame)),
        _ => Err(malformed(frame)),
    }
}

/// The fields of an ErrorResponse that pgferry looks at. Lossy where the text is not UTF-8: what a client gets is
/// always the frame itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorFields {
    /// Not translated where the server says so (`V`), else as it is shown (`S`).
    pub severity: String,
    /// The code.
    pub sqlstate: String,
    /// The message.
    pub message: String,
}

/// Reads an ErrorResponse or NoticeResponse.
///
/// # Errors
/// Where a field or the whole is not terminated.
pub fn error_fields(frame: &Frame) -> Result<ErrorFields, PacketError> {
    let mut fields = ErrorFields::default();
    each_field(frame, |field, value| {
        let value = String::from_utf8_lossy(value).into_owned();
        match field {
            b'V' => fields.severity = value,
            b'S' if fields.severity.is_empty() => fields.severity = value,
            b'C' => fields.sqlstate = value,
            b'M' => fields.message = value,
            _ => {}
        }
    })?;
    Ok(fields)
}

fn each_field(frame: &Frame, mut see: impl FnMut(u8, &[u8])) -> Result<(), PacketError> {
    let mut rest = frame.body();
    loop {
        match rest.split_first() {
            Some((0, _)) => return Ok(()),
            Some((field, after)) => {
                let (value, after) = split_string(after).ok_or_else(|| malformed(frame))?;
                see(*field, value);
                rest = after;
            }
            None => return Err(malformed(frame)),
        }
    }
}

/// The same ErrorResponse with a hint, where it has none; byte for byte otherwise.
#[must_use]
pub fn append_hint(frame: &Frame, hint: &str) -> Bytes {
    let mut hinted = false;
    let whole = each_field(frame, |field, _| hinted |= field == b'H');
    let Some(body) = frame.body().strip_suffix(&[0]) else {
        return frame.raw.clone();
    };
    if hinted || whole.is_err() {
        return frame.raw.clone();
    }
    let mut extended = BytesMut::from(body);
    encode::put_field(b'H', hint, &mut extended);
    extended.put_u8(0);
    encode::to_bytes(|out| encode::message(frame.tag, &extended, out))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        error::{Report, SqlState},
        pg::frame::next_frame,
    };

    fn frame(tag: u8, body: &[u8]) -> Frame {
        Frame { tag, raw: encode::to_bytes(|out| encode::message(tag, body, out)) }
    }

    #[test]
    fn authentication_requests() {
        let read = |body: &[u8]| authentication(&frame(b'R', body));
        assert_eq!(read(&[0, 0, 0, 0]), Ok(Authentication::Ok));
        assert_eq!(read(&[0, 0, 0, 5, 1, 2, 3, 4]), Ok(Authentication::Md5Password([1, 2, 3, 4])));
        assert!(read(&[0, 0, 0, 5, 1]).is_err());
        assert_eq!(read(b"\0\0\0\x0aSCRAM-SHA-256\0\0"), Ok(Authentication::Sasl(vec!["SCRAM-SHA-256".into()])));
        assert!(read(b"\0\0\0\x0aSCRAM").is_err());
        assert!(read(&[0, 0]).is_err());
    }

    #[test]
    fn a_hint_is_added_once() {
        let raw = encode::to_bytes(|out| encode::report(&Report::fatal(SqlState::INVALID_PASSWORD, "no"), out));
        let frame = Frame { tag: b'E', raw };
        let hinted = append_hint(&frame, "try");
        let mut buf = BytesMut::from(hinted.as_ref());
        let hinted = next_frame(&mut buf, 1000).expect("valid").expect("whole");
        assert!(hinted.body().windows(5).any(|bytes| bytes == b"Htry\0"));
        assert_eq!(append_hint(&hinted, "again"), hinted.raw);
        assert_eq!(error_fields(&hinted).expect("fields").sqlstate, "28P01");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(tag: u8, bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let frame = frame(tag, &bytes);
            let _ = (authentication(&frame), parameter_status(&frame), backend_key_data(&frame));
            let _ = (ready_for_query(&frame), error_fields(&frame), append_hint(&frame, "x"));
            let _ = next_frame(&mut BytesMut::from(&bytes[..]), 50);
        }
    }
}
