//! Replays what fuzzing has found worth keeping: `proto-tests/corpus/`.

use std::{fs, path::Path};

use bytes::BytesMut;

use super::{backend, frame::next_frame, options, startup, walk::Walker};

fn each(target: &str, check: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto-tests/corpus").join(target);
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("the corpus") {
        check(&fs::read(entry.expect("an entry").path()).expect("a file"));
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
}

#[test]
fn startup_packets() {
    each("startup", |bytes| {
        let mut buf = BytesMut::from(bytes);
        while let Ok(Some(packet)) = startup::first(&mut buf) {
            match packet {
                startup::First::TlsHello => break,
                startup::First::Startup(startup) => {
                    let _ = (startup.negotiation(), startup.get("options").map(options::take_own));
                }
                _ => {}
            }
        }
    });
}

#[test]
fn backend_messages() {
    each("backend", |bytes| {
        let _ = Walker::backend().feed(bytes, |_| ());
        let mut buf = BytesMut::from(bytes);
        while let Ok(Some(frame)) = next_frame(&mut buf, 64 * 1024) {
            let _ = (backend::authentication(&frame), backend::parameter_status(&frame), backend::error_fields(&frame));
            let _ = (
                backend::backend_key_data(&frame),
                backend::ready_for_query(&frame),
                backend::append_hint(&frame, "h"),
            );
        }
    });
}
