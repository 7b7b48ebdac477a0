//! What each byte and each connection costs in code of ours: `cargo bench --bench wire`.
#![expect(clippy::unwrap_used, reason = "a bench")]

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use pgferry::{
    k8s::dial::frames::{Demultiplexer, data},
    pg::{encode, frame::next_frame, startup, walk::Walker},
};
use proto_tests::wire;

/// What a port-forward brings at a time, and what it takes.
const CHUNK: usize = 64 * 1024;

/// Startup packets: psql's, and the largest that is let in.
fn startup_parsing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("startup");
    let psql = [
        ("user", "app"),
        ("database", "shop.prod"),
        ("application_name", "psql"),
        ("client_encoding", "UTF8"),
        ("options", "-c search_path=public -c pgferry.target=shop"),
    ];
    let long = "x".repeat(9_900);
    for (name, packet) in [
        ("psql", wire::startup(3, 0, &psql)),
        ("10,000 bytes", wire::startup(3, 0, &[("user", "app"), ("options", &long)])),
    ] {
        group.throughput(Throughput::Bytes(packet.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || BytesMut::from(&packet[..]),
                |mut buf| startup::first(&mut buf).unwrap(),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// A stream of messages with bodies of this size, as long as a chunk.
fn messages(tag: u8, body: usize) -> BytesMut {
    let mut out = BytesMut::new();
    while out.len() < CHUNK {
        encode::message(tag, &vec![b'x'; body], &mut out);
    }
    out
}

/// Walking over headers: what each passing byte costs.
fn header_walking(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("walk");
    for (name, body) in [("rows of 20 bytes", 20), ("rows of 1 KiB", 1024), ("messages of 32 KiB", 32 * 1024)] {
        let stream = messages(b'D', body);
        group.throughput(Throughput::Bytes(stream.len() as u64));
        group.bench_function(name, |bencher| {
            let mut walker = Walker::backend();
            bencher.iter(|| walker.feed(black_box(&stream), |seen| _ = black_box(seen)).unwrap());
        });
    }
    let stream = messages(b'S', 30);
    group.throughput(Throughput::Bytes(stream.len() as u64));
    group.bench_function("taking messages apart, as in a login", |bencher| {
        bencher.iter_batched(
            || stream.clone(),
            |mut buf| {
                while let Some(frame) = next_frame(&mut buf, CHUNK).unwrap() {
                    black_box(frame);
                }
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// The messages of a port-forward, WebSocket framing not included.
fn framing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tunnel");
    for (name, size) in [("100 bytes", 100), ("64 KiB", CHUNK - 1)] {
        let payload = vec![b'x'; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("to the server, {name}"), |bencher| bencher.iter(|| data(black_box(&payload))));
        let message = data(&payload);
        group.bench_function(format!("from the server, {name}"), |bencher| {
            let mut demultiplexer = Demultiplexer::new(5432);
            demultiplexer.receive(Bytes::from_static(&[0, 0x38, 0x15])).unwrap();
            bencher.iter(|| demultiplexer.receive(message.clone()).unwrap());
        });
    }
    group.finish();
}

criterion_group!(wire_protocol, startup_parsing, header_walking, framing);
criterion_main!(wire_protocol);
