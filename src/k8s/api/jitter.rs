//! Pauses that are not everybody's at once.

use std::time::Duration;

/// Up to half as much longer.
pub(in crate::k8s) fn jittered(pause: Duration) -> Duration {
    let mut bytes = [0; 4];
    // Without randomness there is no jitter, and nothing else amiss.
    let _ = getrandom::fill(&mut bytes);
    pause + pause.mul_f64(f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX) / 2.0)
}
