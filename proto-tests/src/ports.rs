//! Ports to listen on that stay ours while nobody listens on them: the kernel gives none of these to an outgoing
//! connection, as it does with those that it chooses itself.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

/// Below the ports that Linux, macOS and Kubernetes give away.
const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A listener on the next port of this process that nobody has.
#[must_use]
pub fn listen() -> TcpListener {
    // Other processes that test begin somewhere else.
    let begin = std::process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let next = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed).into()) % u32::from(COUNT);
        let port = FIRST + u16::try_from(next).unwrap();
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return listener;
        }
    }
    panic!("no port from {FIRST} on is free");
}

/// Such a port, for a process that is yet to listen on it: another may be there first.
#[must_use]
pub fn free() -> u16 {
    listen().local_addr().unwrap().port()
}
