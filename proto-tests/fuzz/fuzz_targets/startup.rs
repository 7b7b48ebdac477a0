//! A connection's first packets: whatever is parsed means the same when it is written and parsed again.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use pgferry::pg::{
    options,
    startup::{First, first},
};

fuzz_target!(|bytes: &[u8]| {
    let mut buf = BytesMut::from(bytes);
    while let Ok(Some(packet)) = first(&mut buf) {
        match packet {
            First::TlsHello => break,
            First::SslRequest | First::GssEncRequest => {}
            First::Cancel(key) => {
                let mut request = BytesMut::from(key.encode_request().as_ref());
                assert!(matches!(first(&mut request), Ok(Some(First::Cancel(again))) if again == key));
            }
            First::Startup(startup) => {
                let _ = startup.negotiation();
                if let Some(given) = startup.get("options") {
                    let (value, rest) = options::take_option(given, "target");
                    assert!(value.is_some() || rest == given);
                }
                let mut out = BytesMut::new();
                startup.encode(startup.version, &mut out);
                let Ok(Some(First::Startup(again))) = first(&mut out) else { panic!("{startup:?}") };
                let kept: Vec<_> = startup.parameters().filter(|(name, _)| !name.starts_with(b"_pq_.")).collect();
                assert_eq!(again.parameters().collect::<Vec<_>>(), kept);
            }
        }
    }
});
