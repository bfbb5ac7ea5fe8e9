//! What `--metrics-port` serves, read as Prometheus would: it is all that docs/metrics.md lists, and it is right.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Rows a second for ever, in windows of one second of event time; each tenth row is an hour late.
const PIPELINE: &str = "
    SET 'pipeline.name' = 'measured';
    CREATE TABLE readings (
      n BIGINT,
      at TIMESTAMP(3),
      seen AS CASE WHEN n % 10 = 9 THEN at - INTERVAL '1' HOUR ELSE at END,
      WATERMARK FOR seen AS seen
    ) WITH (
      'connector' = 'datagen', 'rows-per-second' = '2000', 'splits' = '2',
      'fields.n.kind' = 'sequence', 'fields.at.kind' = 'time',
      'fields.at.start' = '2026-01-01T00:00:00Z', 'fields.at.step' = '10 ms'
    );
    CREATE TABLE counts (window_start TIMESTAMP(3), rest BIGINT, n BIGINT) WITH ('connector' = 'blackhole');
    INSERT INTO counts
    SELECT window_start, n % 16 AS rest, count(*) AS n
    FROM TABLE(TUMBLE(TABLE readings, DESCRIPTOR(seen), INTERVAL '1' SECOND))
    GROUP BY window_start, n % 16;
";

struct Running(Child, Vec<String>);

impl Running {
    /// Starts the pipeline and waits until `processes` of it have said where they serve.
    fn start(arguments: &[&str], processes: usize) -> Running {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("measured.sql");
        fs::write(&file, PIPELINE).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
        command.arg("run").arg(&file).args(arguments).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut running = Running(child, Vec::new());
        while running.1.len() < processes {
            let line = said.next().expect("it says where it serves before it ends").unwrap();
            let address = line.split_once("metrics at http://").and_then(|(_, rest)| rest.strip_suffix("/metrics"));
            running.1.extend(address.map(str::to_owned));
        }
        std::thread::spawn(move || said.for_each(drop));
        running
    }

    fn get(&self, process: usize, path: &str) -> (u16, String) {
        let address = &self.1[process];
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// The metrics of `process` once `enough` of them is there.
    fn metrics(&self, process: usize, enough: impl Fn(&Metrics) -> bool) -> Metrics {
        let start = Instant::now();
        loop {
            let (status, text) = self.get(process, "/metrics");
            assert_eq!(status, 200, "{text}");
            let metrics = Metrics(text);
            if enough(&metrics) {
                return metrics;
            }
            assert!(start.elapsed() < Duration::from_secs(40), "not enough after 40 seconds:\n{}", metrics.0);
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Metrics(String);

impl Metrics {
    /// All samples of `name` whose labels hold each of `labels`.
    fn values(&self, name: &str, labels: &[&str]) -> Vec<f64> {
        let lines = self.0.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.filter_map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let own = series.split('{').next().unwrap() == name && labels.iter().all(|label| series.contains(label));
            own.then(|| value.parse().unwrap())
        });
        samples.collect()
    }

    fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        self.values(name, labels).iter().sum()
    }

    /// The kind and the description of each metric.
    fn families(&self) -> BTreeMap<String, (String, String)> {
        let mut families: BTreeMap<String, (String, String)> = BTreeMap::new();
        for line in self.0.lines() {
            if let Some((name, about)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
                families.entry(name.into()).or_default().1 = about.trim_end_matches('.').into();
            } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                families.entry(name.into()).or_default().0 = kind.into();
            }
        }
        families
    }
}

/// Enough has happened for every figure to say something.
fn in_full_swing(metrics: &Metrics) -> bool {
    let rows = |table| metrics.sum("highwater_step_rows_in_total", &[table]);
    rows("sink counts") > 0.0
        && metrics.sum("highwater_step_late_rows_total", &[]) > 0.0
        && metrics.sum("highwater_epoch_seconds_count", &[]) > 3.0
}

#[test]
fn the_documents_list_what_is_served() {
    let running = Running::start(&["--metrics-port", "0"], 1);
    let metrics = running.metrics(0, in_full_swing);
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap();
    let rows = page.lines().filter_map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, about] = cells.as_slice() else { return None };
        let name = name.strip_prefix('`')?.strip_suffix('`')?;
        let name = match *kind {
            "counter" => name.strip_suffix("_total").unwrap_or_else(|| panic!("{name} counts, but is no total")),
            "info" => name.strip_suffix("_info").unwrap(),
            _ => name,
        };
        // what follows the colon is said here only
        let about = about.split(':').next().unwrap();
        Some((name.to_owned(), ((*kind).to_owned(), about.to_owned())))
    });
    assert_eq!(metrics.families(), rows.collect());
    assert!(metrics.0.ends_with("# EOF\n"));
    assert_eq!(running.get(0, "/healthz"), (200, "running\n".into()));
    assert_eq!(running.get(0, "/").0, 404);
}

#[test]
fn what_is_counted_fits_together() {
    let start = Instant::now();
    let running = Running::start(&["--metrics-port", "0", "--workers", "2"], 1);
    let metrics = running.metrics(0, in_full_swing);
    let elapsed = start.elapsed().as_secs_f64();
    let source = |name: &str| metrics.sum(name, &["step=\"source readings\""]);
    let read = source("highwater_step_rows_out_total");
    assert!(read > 0.0 && source("highwater_step_read_bytes_total") > read);
    assert!(source("highwater_step_batches_out_total") <= read);
    assert_eq!(source("highwater_step_errors_total"), 0.0);
    // the watermark lies in the generated time
    let marks = metrics.values("highwater_step_watermark_seconds", &["source readings"]);
    assert!(!marks.is_empty() && marks.iter().all(|mark| (1.7672e9..1.7682e9).contains(mark)), "{marks:?}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let lags = metrics.values("highwater_step_event_time_lag_seconds", &["source readings"]);
    assert!(marks.iter().zip(&lags).all(|(mark, lag)| (mark + lag - now).abs() < 60.0), "{marks:?} {lags:?}");
    // a tenth of all rows is late
    let late = metrics.sum("highwater_step_late_rows_total", &[]);
    assert!(late <= read / 10.0 + 1.0, "{late} of {read}");
    for worker in ["worker=\"0\"", "worker=\"1\""] {
        let busy = metrics.sum("highwater_step_busy_seconds_total", &[worker]);
        assert!(busy > 0.0 && busy < elapsed, "{busy} of {elapsed} seconds");
    }
    let [opened, finished, in_flight] = ["opened_total", "finished_total", "in_flight"]
        .map(|name| metrics.sum(&format!("highwater_epochs_{name}"), &[]));
    assert!(finished > 0.0 && opened >= finished && in_flight <= 5.0, "{opened} {finished} {in_flight}");
    assert_eq!(metrics.values("highwater_pipeline_info", &["pipeline=\"measured\""]), [1.0]);
    assert!(metrics.sum("process_cpu_seconds_total", &[]) > 0.0);
    assert!(metrics.sum("process_resident_memory_bytes", &[]) > 1e6);
    // nothing leaves the process, and a source takes nothing in
    assert_eq!(metrics.sum("highwater_step_exchanged_bytes_total", &[]), 0.0);
    assert_eq!(metrics.values("highwater_step_rows_in_total", &["source readings"]), [0.0; 0]);
}

#[test]
fn each_process_serves_its_own() {
    let running = Running::start(&["--metrics-port", "0", "--processes", "2"], 2);
    // which of the two speaks first is open
    let both = [0, 1].map(|process| {
        running.metrics(process, |metrics| {
            metrics.sum("highwater_step_rows_in_total", &["sink counts"]) > 0.0
                && metrics.sum("highwater_step_exchanged_bytes_total", &[]) > 0.0
        })
    });
    for worker in ["worker=\"0\"", "worker=\"1\""] {
        let of_worker = |metrics: &&Metrics| !metrics.values("highwater_step_rows_out_total", &[worker]).is_empty();
        assert_eq!(both.iter().filter(of_worker).count(), 1, "{worker} belongs to one process");
    }
    let epochs = both.iter().filter(|metrics| !metrics.values("highwater_epochs_in_flight", &[]).is_empty());
    assert_eq!(epochs.count(), 1, "one process keeps time");
}

#[test]
fn a_port_that_is_taken_is_said_before_anything_runs() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("measured.sql"), PIPELINE).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_highwater"))
        .args(["run", "measured.sql", "--metrics-port", &port])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains(&format!("metrics cannot be served at 127.0.0.1:{port}: ")), "{said}");
}
