//! A load balancer's header: nothing panics, what is taken is within bounds, and more bytes behind it change nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgferry::session::proxy_header::{LONGEST, Said, parse};

fuzz_target!(|bytes: &[u8]| {
    let Ok(Some((said, length))) = parse(bytes) else { return };
    assert!((16..=LONGEST.min(bytes.len())).contains(&length));
    let header = &bytes[..length];
    assert!(matches!(parse(header), Ok(Some(again)) if again == (said, length)));
    for short in 0..length {
        assert!(matches!(parse(&header[..short]), Ok(None)));
    }
    if let Said::Client { source, destination } = said {
        assert_eq!(source.ip(), source.ip().to_canonical());
        assert_eq!(destination.ip(), destination.ip().to_canonical());
    }
});
