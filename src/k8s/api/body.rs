//! The body of an answer, which may be a Secret: no copy of it outlives its use.

use std::{future::poll_fn, pin::pin};

use hyper::body::{Body as _, Bytes};
use kube::client::Body;
use zeroize::{Zeroize as _, Zeroizing};

/// Most objects fit.
const USUAL: usize = 16 * 1024;
/// The most that is set aside because a server announces it: it may never send that.
const ANNOUNCED: u64 = 4 * 1024 * 1024;

/// Reads an answer to its end.
///
/// # Errors
/// Where it breaks off.
pub(in crate::k8s) async fn read(body: Body) -> Result<Zeroizing<Vec<u8>>, kube::Error> {
    let announced = body.size_hint().exact().unwrap_or_default().min(ANNOUNCED);
    let mut read = Growing::with_room(usize::try_from(announced).unwrap_or_default().max(USUAL));
    let mut body = pin!(body);
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        // Trailers say nothing to us.
        if let Ok(data) = frame?.into_data() {
            read.extend(&data);
            scrub(data);
        }
    }
    Ok(read.bytes)
}

/// Where the HTTP stack still holds on to the same memory it cannot be written, and is soon read over.
fn scrub(data: Bytes) {
    if let Ok(mut data) = data.try_into_mut() {
        data.as_mut().zeroize();
    }
}

/// Bytes that leave no copy behind when they need more room: `Vec` itself would free the old memory as it is.
struct Growing {
    bytes: Zeroizing<Vec<u8>>,
}

impl Growing {
    fn with_room(room: usize) -> Self {
        Self { bytes: Zeroizing::new(Vec::with_capacity(room)) }
    }

    fn extend(&mut self, more: &[u8]) {
        let needed = self.bytes.len().saturating_add(more.len());
        if needed > self.bytes.capacity() {
            let room = needed.max(self.bytes.capacity().saturating_mul(2));
            let mut larger = Self::with_room(room);
            larger.bytes.extend_from_slice(&self.bytes);
            // Overwritten when it is dropped, all of its capacity.
            self.bytes = larger.bytes;
        }
        self.bytes.extend_from_slice(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Vec` never moves by itself what fits, so that whatever moves was moved by `extend`.
    #[test]
    fn what_grows_is_whole_and_moves_only_by_our_hand() {
        let mut growing = Growing::with_room(4);
        let mut expected = Vec::new();
        let mut moves = 0;
        for length in 0..100_u8 {
            let piece: Vec<u8> = (0..length).collect();
            let (before, room) = (growing.bytes.as_ptr(), growing.bytes.capacity());
            let fits = growing.bytes.len() + piece.len() <= room;
            growing.extend(&piece);
            expected.extend_from_slice(&piece);
            assert_eq!(*growing.bytes, expected);
            assert_eq!(fits, growing.bytes.as_ptr() == before && growing.bytes.capacity() == room);
            moves += usize::from(!fits);
        }
        assert!((8..20).contains(&moves), "{moves}: twice the room each time");
    }

    #[tokio::test]
    async fn a_body_is_read_to_its_end() {
        let text = "x".repeat(100_000);
        assert_eq!(*read(Body::from(text.clone().into_bytes())).await.expect("read"), text.as_bytes());
        assert!(read(Body::empty()).await.expect("read").is_empty());
    }

    #[test]
    fn what_nobody_else_holds_is_overwritten() {
        let whole = Bytes::from(vec![7; 32]);
        let other = whole.clone();
        // Shared memory stays as it is.
        scrub(whole);
        assert_eq!(other, vec![7; 32]);
        scrub(other);
    }
}
