//! Typed messages: one byte of type, four of length (which counts itself), then the body.

use bytes::{Bytes, BytesMut};

use super::{PacketError, u32_at};

/// Type and length.
pub const HEADER: usize = 5;

/// One message as it came.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The message's type.
    pub tag: u8,
    /// The whole message, header included.
    pub raw: Bytes,
}

impl Frame {
    /// What follows the header.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.raw.get(HEADER..).unwrap_or_default()
    }
}

/// Takes the next message off `buf`; `None` where it has not arrived whole.
///
/// # Errors
/// Where the length is below 4, or the body longer than `max_body`: known from the header, before it is buffered.
pub fn next_frame(buf: &mut BytesMut, max_body: usize) -> Result<Option<Frame>, PacketError> {
    let (Some(tag), Some(length)) = (buf.first().copied(), u32_at(buf, 1)) else {
        return Ok(None);
    };
    let length = usize::try_from(length).map_err(|_| PacketError::Length)?;
    let body = length.checked_sub(4).ok_or(PacketError::Length)?;
    if body > max_body {
        return Err(PacketError::TooLong { length: body, limit: max_body });
    }
    let whole = body.saturating_add(HEADER);
    if buf.len() < whole {
        return Ok(None);
    }
    Ok(Some(Frame { tag, raw: buf.split_to(whole).freeze() }))
}
