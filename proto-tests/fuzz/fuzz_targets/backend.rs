//! A server's messages: the walker sees the same however the stream is cut, and no view on a message panics.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use pgferry::pg::{
    backend,
    frame::{Frame, next_frame},
    walk::Walker,
};

fuzz_target!(|bytes: &[u8]| {
    let walk = |chunk: usize| {
        let (mut walker, mut seen) = (Walker::backend(), Vec::new());
        for part in bytes.chunks(chunk) {
            if walker.feed(part, |what| seen.push(what)).is_err() {
                break;
            }
        }
        (seen, walker.at_boundary())
    };
    assert_eq!(walk(1), walk(bytes.len().max(1)));
    let mut buf = BytesMut::from(bytes);
    while let Ok(Some(frame)) = next_frame(&mut buf, 64 * 1024) {
        let _ = (backend::authentication(&frame), backend::parameter_status(&frame), backend::ready_for_query(&frame));
        let _ = backend::backend_key_data(&frame);
        if backend::error_fields(&frame).is_ok() {
            let mut hinted = BytesMut::from(backend::append_hint(&frame, "hint").as_ref());
            let again: Frame = next_frame(&mut hinted, 128 * 1024).expect("valid").expect("whole");
            assert_eq!(backend::error_fields(&again), backend::error_fields(&frame));
        }
    }
});
