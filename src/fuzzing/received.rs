//! What other processes and clients send.

use super::stored::reseal_batches;
use super::{Target, join, parts, reseal_parts, rows, unsealed};
use crate::batch::keys::split_by_key;
use crate::batch::wire::Encoder;
use crate::broker::protocol::{Api, SUPPORTED};
use crate::broker::{Config, batch, server::Server, wire::Writer};
use crate::runtime::exchange::Packet;
use crate::runtime::mesh::handshake::{Hello, Kind, Passport, Rejection, accept, dial};
use crate::runtime::mesh::peers::{Message, Watch};
use crate::runtime::mesh::{Deadlines, Identity, Secret, wire};
use crate::time::SystemClock;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use serde_json::json;
use std::io::Write;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

/// A packet of another worker, as it is exchanged. Only who has proven the mesh's secret can send one.
pub const EXCHANGE: Target = Target { name: "exchange", seeds: packets, reseal: unsealed, run: exchange };

/// What a stranger says on a connection of the mesh, to a listener and to a dialer.
pub const HANDSHAKE: Target = Target { name: "handshake", seeds: hellos, reseal: unsealed, run: handshake };

/// What a peer says on the control connection.
pub const CONTROL: Target = Target { name: "control", seeds: messages, reseal: unsealed, run: control };

/// Requests to one development broker.
pub const BROKER: Target = Target {
    name: "broker",
    seeds: requests,
    reseal: |bytes| reseal_parts(bytes, |part| reseal_batches(part)),
    run: broker,
};

fn edges() -> [SchemaRef; 2] {
    [rows::schema(true), rows::schema(false)]
}

fn packets() -> Vec<Vec<u8>> {
    let packet = |edge: usize, rows: usize| {
        let body = Encoder::default().encode(&rows::batch(&edges()[edge], rows, 3)).expect("these columns travel");
        [&[edge as u8][..], &(rows as i64).to_le_bytes(), &body].concat()
    };
    vec![packet(0, 20), packet(1, 5), packet(0, 0)]
}

fn exchange(bytes: &[u8]) -> bool {
    let Some((edge, packet)) = bytes.split_first() else { return false };
    let schema = &edges()[usize::from(*edge) % 2];
    let Ok(rows) = Packet::Wire(Bytes::copy_from_slice(packet)).take(schema) else { return false };
    let workers = NonZeroUsize::new(3).expect("three is not zero");
    let _ = split_by_key(&rows, &[0, 1, 8], workers.get());
    Encoder::default().encode(&rows).is_ok()
}

fn passport() -> Passport {
    let identity = Identity {
        pipeline: "p".into(),
        generation: 7,
        fingerprint: [0xab; 32],
        secret: Secret::parse(&"s".repeat(32)).expect("it is long enough"),
    };
    Passport::new(&identity, 0, 2, 1).expect("its name is short")
}

fn hello() -> serde_json::Value {
    json!({
        "kind": "Control", "process": 1, "listens": "127.0.0.1:1", "processes": 2, "threads": 1, "pipeline": "p",
        "generation": 7, "fingerprint": "ab".repeat(32), "nonce": "00".repeat(32),
    })
}

fn hellos() -> Vec<Vec<u8>> {
    let preamble = [&b"HWMESH"[..], &1_u16.to_be_bytes()].concat();
    let proof = wire::frame(&json!({ "proof": "00".repeat(32) }));
    let dialer = [&[0], &preamble[..], &wire::frame(&hello()), &proof].concat();
    let challenge = wire::frame(&json!({ "nonce": "00".repeat(32) }));
    let known = wire::frame(&json!({"Known": {"hello": hello(), "taken": false}}));
    let listener = [&[1], &preamble[..], &challenge, &known, &proof].concat();
    let wrong = [&[1], &preamble[..], &challenge, &wire::frame(&json!("WrongSecret"))].concat();
    vec![dialer, listener, wrong, [&[2], hello().to_string().as_bytes()].concat()]
}

fn handshake(bytes: &[u8]) -> bool {
    let Some((side, said)) = bytes.split_first() else { return false };
    if *side == 2 {
        // what is compared once the proof is right
        return serde_json::from_slice::<Hello>(said).is_ok_and(|hello| passport().objection(&hello).is_none());
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a port");
    let mut theirs = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("someone listens");
    let (ours, _) = listener.accept().expect("someone has dialed");
    // closed at once, or the ports would soon be used up
    socket2::SockRef::from(&theirs).set_linger(Some(Duration::ZERO)).expect("it is a socket");
    theirs.write_all(&said[..said.len().min(60_000)]).expect("it fits the socket's buffer");
    theirs.shutdown(Shutdown::Write).expect("it is connected");
    let (clock, deadline) = (SystemClock::default(), Duration::from_secs(2));
    let answer = match side {
        0 => accept(&ours, &passport(), deadline, &clock, |_| true).map(drop),
        _ => dial(&ours, &passport(), Kind::Control, 1, deadline, &clock),
    };
    // nobody knows the nonces before, so a stranger comes no further than to its proof
    assert!(answer.is_err(), "a stranger was let in");
    let Err(Rejection::Stray(what)) = answer else { return true };
    what.contains("secret")
}

fn messages() -> Vec<Vec<u8>> {
    let said = [
        json!({"Heartbeat": {"counters": [1, 2, 3]}}),
        json!({"Table": ["127.0.0.1:1", "127.0.0.1:2"]}),
        json!({"Failure": {"kind": "data", "text": "it broke", "help": "mend it"}}),
        json!("Stop"),
        json!({"Goodbye": {"counters": [1]}}),
    ];
    vec![said.iter().flat_map(wire::frame).collect()]
}

fn control(bytes: &[u8]) -> bool {
    let watch = Watch::new(0, 2, Deadlines::default(), Arc::new(SystemClock::default()));
    let mut inbox = bytes.to_vec();
    while let Ok(Some(message)) = wire::take::<Message>(&mut inbox) {
        watch.on_message(1, message);
    }
    let _ = watch.failure();
    inbox.is_empty()
}

fn request(api: Api, version: i16, body: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut out = Writer::default();
    out.i16(api as i16);
    out.i16(version);
    out.i32(1);
    out.text("fuzz");
    out.flexible = api.is_flexible(version);
    out.tags();
    body(&mut out);
    out.into_bytes()
}

/// A batch with one record that is not transactional: bytes of it are a marker's, which the broker does not read.
fn records() -> Vec<u8> {
    let mut bytes = batch::marker(-1, -1, true, 1_000);
    bytes[21..23].fill(0);
    reseal_batches(&mut bytes);
    bytes
}

fn requests() -> Vec<Vec<u8>> {
    let create = || {
        request(Api::CreateTopics, 1, |out| {
            out.list(["t"], |out, name| {
                out.text(name);
                out.i32(2);
                out.i16(1);
                out.empty_list();
                out.empty_list();
            });
            out.i32(1000);
            out.bool(false);
        })
    };
    let place = |out: &mut Writer, each: &dyn Fn(&mut Writer)| {
        out.list(["t"], |out, name| {
            out.text(name);
            out.list([0], |out, partition| {
                out.i32(partition);
                each(out);
            });
        });
    };
    let produce = request(Api::Produce, 5, |out| {
        out.text_or_null(None);
        out.i16(-1);
        out.i32(1000);
        place(out, &|out| out.bytes(&records()));
    });
    let fetch = request(Api::Fetch, 4, |out| {
        [-1, 1, 1, 1 << 20].into_iter().for_each(|number| out.i32(number));
        out.i8(1);
        place(out, &|out| {
            out.i64(0);
            out.i32(1 << 20);
        });
    });
    let offsets = request(Api::ListOffsets, 2, |out| {
        out.i32(-1);
        out.i8(0);
        place(out, &|out| out.i64(-1));
    });
    let producer = request(Api::InitProducerId, 0, |out| {
        out.text_or_null(Some("tx"));
        out.i32(60_000);
    });
    let touch = request(Api::AddPartitionsToTxn, 0, |out| {
        out.text("tx");
        out.i64(0);
        out.i16(0);
        out.list(["t"], |out, name| {
            out.text(name);
            out.list([0], |out, partition| out.i32(partition));
        });
    });
    let end = request(Api::EndTxn, 0, |out| {
        out.text("tx");
        out.i64(0);
        out.i16(0);
        out.bool(true);
    });
    let commit = request(Api::OffsetCommit, 2, |out| {
        out.text("g");
        out.i32(-1);
        out.text("");
        out.i64(-1);
        place(out, &|out| {
            out.i64(7);
            out.text("m");
        });
    });
    let join_group = request(Api::JoinGroup, 1, |out| {
        out.text("g");
        out.i32(10_000);
        out.i32(10_000);
        out.text("");
        out.text("consumer");
        out.list(["range"], |out, name| {
            out.text(name);
            out.bytes(b"any");
        });
    });
    let all = [create(), produce, fetch, offsets, producer, touch, end, commit, join_group];
    // and each kind in each version with fields that are nothing and with some that are one
    let each = SUPPORTED.iter().flat_map(|(api, versions)| versions.clone().map(move |version| (*api, version)));
    let blank = each.map(|(api, version)| {
        let filled = |byte: u8| request(api, version, |out| out.raw(&[byte; 48]));
        join([create(), filled(0), request(api, version, |out| out.raw(&[0, 0, 0, 1].repeat(16)))])
    });
    std::iter::once(join(&all)).chain(blank).collect()
}

fn broker(bytes: &[u8]) -> bool {
    let config = Config { memory_limit: 4 << 20, ..Config::default() };
    let server = Server::open(config, SocketAddr::from((Ipv4Addr::LOCALHOST, 9092))).expect("memory is there");
    // nobody waits for a broker that stops, so no request takes its time
    server.stop();
    parts(bytes).into_iter().map(|part| server.answer(part, "127.0.0.1").is_ok()).fold(false, std::ops::BitOr::bitor)
}
