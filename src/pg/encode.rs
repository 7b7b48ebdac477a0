//! The messages that pgferry itself sends.

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::{Report, Severity, printable};

/// A typed message with this body.
pub fn message(tag: u8, body: &[u8], out: &mut BytesMut) {
    out.put_u8(tag);
    // What we send ourselves is a few kilobytes at the most.
    out.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX).saturating_add(4));
    out.put_slice(body);
}

/// ErrorResponse for a FATAL, NoticeResponse for all else.
pub fn report(report: &Report, out: &mut BytesMut) {
    let tag = if report.severity == Severity::Fatal { b'E' } else { b'N' };
    let mut body = BytesMut::new();
    // V stays what S says, as nothing here is translated; R lets support tell our errors from a server's.
    // The last place where text from elsewhere can be kept off a terminal.
    let message_text = printable(&report.message);
    for (field, value) in [
        (b'S', Some(report.severity.as_str())),
        (b'V', Some(report.severity.as_str())),
        (b'C', Some(report.sqlstate.as_str())),
        (b'M', Some(message_text.as_str())),
        (b'D', report.detail.as_deref()),
        (b'H', report.hint.as_deref()),
        (b'R', Some("pgferry")),
    ] {
        if let Some(value) = value {
            put_field(field, value, &mut body);
        }
    }
    body.put_u8(0);
    message(tag, &body, out);
}

/// One field of an ErrorResponse. A zero inside would end it early.
pub(super) fn put_field(field: u8, value: &str, body: &mut BytesMut) {
    body.put_u8(field);
    body.extend(value.bytes().filter(|byte| *byte != 0));
    body.put_u8(0);
}

/// AuthenticationOk.
pub fn authentication_ok(out: &mut BytesMut) {
    message(b'R', &[0; 4], out);
}

/// AuthenticationCleartextPassword.
pub fn authentication_cleartext_password(out: &mut BytesMut) {
    message(b'R', &3_u32.to_be_bytes(), out);
}

/// AuthenticationSASL, which offers these mechanisms, the best first.
pub fn authentication_sasl(mechanisms: &[&str], out: &mut BytesMut) {
    let mut list = BytesMut::new();
    for mechanism in mechanisms {
        list.put_slice(mechanism.as_bytes());
        list.put_u8(0);
    }
    list.put_u8(0);
    authentication(10, &list, out);
}

/// AuthenticationSASLContinue.
pub fn authentication_sasl_continue(data: &[u8], out: &mut BytesMut) {
    authentication(11, data, out);
}

/// AuthenticationSASLFinal.
pub fn authentication_sasl_final(data: &[u8], out: &mut BytesMut) {
    authentication(12, data, out);
}

fn authentication(code: u32, data: &[u8], out: &mut BytesMut) {
    message(b'R', &[code.to_be_bytes().as_slice(), data].concat(), out);
}

/// SASLInitialResponse.
pub fn sasl_initial_response(mechanism: &str, data: &[u8], out: &mut BytesMut) {
    let mut body = BytesMut::new();
    body.put_slice(mechanism.as_bytes());
    body.put_u8(0);
    body.put_u32(u32::try_from(data.len()).unwrap_or(u32::MAX));
    body.put_slice(data);
    message(b'p', &body, out);
}

/// SASLResponse.
pub fn sasl_response(data: &[u8], out: &mut BytesMut) {
    message(b'p', data, out);
}

/// PasswordMessage: a password, or the MD5 answer. The caller has made sure that it holds no zero.
pub fn password_message(password: &[u8], out: &mut BytesMut) {
    out.put_u8(b'p');
    out.put_u32(u32::try_from(password.len()).unwrap_or(u32::MAX).saturating_add(5));
    out.put_slice(password);
    out.put_u8(0);
}

/// Terminate.
pub fn terminate(out: &mut BytesMut) {
    message(b'X', &[], out);
}

/// One message as bytes of its own.
#[must_use]
pub fn to_bytes(write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::new();
    write(&mut out);
    out.freeze()
}
