//! Links between two processes that are narrow, or carry one way only: by a proxy that knows nothing of what passes.

use crate::deaths::Feed;
use crate::job::{DevBroker, Input, Job, Run};
use nix::sys::signal::{Signal, kill};
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::Duration;

/// What the proxy does to bytes on their way.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Link {
    Clear,
    /// So many bytes a second each way, each piece so much later.
    Narrow(usize, Duration),
    /// What the process behind the proxy says is lost, and nobody is told.
    HalfOpen,
}

/// Stands before process 0.
struct Proxy {
    address: String,
    link: Arc<Mutex<Link>>,
}

impl Proxy {
    fn start(behind: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let link = Arc::new(Mutex::new(Link::Clear));
        let shared = Arc::clone(&link);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(&behind) else { continue };
                let (near_too, far_too) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                pass(near, far, Arc::clone(&shared), false);
                pass(far_too, near_too, Arc::clone(&shared), true);
            }
        });
        Proxy { address, link }
    }

    fn set(&self, link: Link) {
        *self.link.lock().unwrap() = link;
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, link: Arc<Mutex<Link>>, is_answer: bool) {
    thread::spawn(move || {
        let mut bytes = vec![0; 4096];
        while let Ok(length @ 1..) = from.read(&mut bytes) {
            let now = *link.lock().unwrap();
            match now {
                Link::Clear => {}
                Link::Narrow(rate, delay) => sleep(delay + Duration::from_secs_f64(length as f64 / rate as f64)),
                Link::HalfOpen if is_answer => continue,
                Link::HalfOpen => {}
            }
            if to.write_all(&bytes[..length]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}

/// A port that is free now.
fn free() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Two processes that know each other by name; process 1 finds process 0 behind the proxy.
struct Pair {
    job: Job,
    proxy: Proxy,
}

impl Pair {
    fn new(input: &Input) -> Self {
        let job = Job::endless(input);
        let [first, second] = [free(), free()];
        let proxy = Proxy::start(first.clone());
        fs::write(job.path("hosts0"), format!("{first}\n{second}\n")).unwrap();
        fs::write(job.path("hosts1"), format!("{}\n{second}\n", proxy.address)).unwrap();
        Pair { job, proxy }
    }

    fn start(&self, peer_timeout: &str) -> [Run; 2] {
        [0, 1].map(|process| {
            let (hosts, process) = (format!("hosts{process}"), process.to_string());
            let arguments = ["run", "pipeline.sql", "--no-progress", "--hosts", &hosts, "--process", &process];
            let mut command = self.job.command(&arguments);
            command.args(["--peer-timeout", peer_timeout, "--connect-timeout", "60s"]);
            command.env("HIGHWATER_MESH_SECRET", "5a".repeat(32)).stdin(Stdio::null());
            Run::of(command, self.job.path(&format!("{}.err", crate::kafka::unique("host"))))
        })
    }
}

fn stop([first, second]: [Run; 2]) {
    kill(first.id(), Signal::SIGINT).unwrap();
    let ((code, err), (code_of_second, err_of_second)) = (first.end(), second.end());
    assert_eq!((code, code_of_second), (0, 0), "{err}{err_of_second}");
}

/// One of them hears nothing any more, though nothing is closed: both end, and the same commands go on when the link is well again.
#[test]
fn a_link_between_processes_that_carries_one_way_only_is_noticed() {
    let broker = DevBroker::start();
    let input = Input::new(&broker.address);
    let pair = Pair::new(&input);
    let feed = Feed::start(&input, 0);
    let mut running = pair.start("5s");
    let before = pair.job.checkpoint();
    running[0].wait_for("checkpoint", |_| pair.job.checkpoint() > before);
    pair.proxy.set(Link::HalfOpen);
    for (process, run) in running.into_iter().enumerate() {
        let (code, err) = run.end();
        assert_eq!(code, 4, "process {process}: {err}");
        assert!(err.contains("no heartbeat for 5s") || err.contains("process 1"), "process {process}: {err}");
    }
    pair.proxy.set(Link::Clear);
    let rows = feed.end();
    input.close();
    let mut running = pair.start("30s");
    running[0].wait_for("rest", |_| pair.job.complete(rows));
    stop(running);
    pair.job.check(rows, "a link that carried one way only");
}

/// 1 Mbit/s, and every piece 50 ms late: slower, but nobody is taken for dead.
#[test]
fn a_narrow_link_between_processes_only_makes_them_slower() {
    let broker = DevBroker::start();
    let input = Input::new(&broker.address);
    let pair = Pair::new(&input);
    pair.proxy.set(Link::Narrow(125_000, Duration::from_millis(50)));
    let feed = Feed::start(&input, 0);
    let mut running = pair.start("20s");
    for _ in 0..5 {
        let before = pair.job.checkpoint();
        running[0].wait_for("checkpoint", |_| pair.job.checkpoint() > before);
    }
    let rows = feed.end();
    input.close();
    running[0].wait_for("rest", |_| pair.job.complete(rows));
    stop(running);
    pair.job.check(rows, "a narrow link");
}
