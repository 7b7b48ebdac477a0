//! What `pgferry list` costs in memory and time with 2,000 clusters, 6,000 database pods of 12 KB and 20,000 others:
//! `cargo bench --bench list_size`.
#![expect(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, reason = "a bench")]

use std::{process::Stdio, time::Duration};

use proto_tests::{
    fleet::{self, Fleet},
    kubernetes::FakeKubernetes,
};
use tokio::time::Instant;

/// The most that a list may take.
const LIMIT_MIB: u64 = 100;

/// The high-water mark of a process, in KiB, while it runs.
fn peak(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[tokio::main]
async fn main() {
    let api = FakeKubernetes::start().await;
    fleet::build(&api, Fleet::LARGE);
    for run in 1..=3 {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_pgferry"));
        command.args(["list", "--output", "json", "--kubeconfig"]).arg(api.kubeconfig()).stdout(Stdio::piped());
        let started = Instant::now();
        let child = command.spawn().unwrap();
        let pid = child.id().unwrap();
        let output = tokio::spawn(child.wait_with_output());
        let mut most = 0;
        while !output.is_finished() {
            most = most.max(peak(pid).unwrap_or_default());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let output = output.await.unwrap().expect("a list");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        println!("run {run}: {} MiB at the most, {:.2} s", most / 1024, started.elapsed().as_secs_f32());
        assert!(most / 1024 < LIMIT_MIB, "more than {LIMIT_MIB} MiB");
    }
}
