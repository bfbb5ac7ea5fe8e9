//! Tables outside that are asked for the rows of keys: a real service over HTTP, on loopback.

#[path = "support/pipeline.rs"]
mod pipeline;
#[path = "support/web.rs"]
mod web;

use highwater::connector::builtin::Builtin;
use highwater::connector::memory::MemorySink;
use highwater::error::ErrorKind;
use highwater::runtime::{self, Workers};
use highwater::time::SystemClock;
use pipeline::{MINUTE, Row, SHAPES, Shape, Table, assert_same, expected, for_seeds, plan, run_with, sorted, within};
use rand::Rng;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use web::Web;

/// How many bytes a word has, of the words that the service knows.
fn size(word: &str) -> Option<i64> {
    (!word.is_empty() && word.len() % 3 != 2).then_some(word.len() as i64)
}

/// What the service says of `/sizes/word`. Its own word is not what it is asked for.
fn answer(path: &str) -> (u16, String) {
    match size(path.strip_prefix("/sizes/").unwrap()) {
        Some(size) => (200, format!("{{\"size\": {size}, \"word\": \"another\", \"more\": [1]}}\n")),
        None => (404, "no such word".into()),
    }
}

fn sizes(url: &str, more: &str) -> String {
    format!(
        "CREATE TABLE sizes (word STRING, size BIGINT) WITH ('connector' = 'http', 'url' = '{url}', 'format' = 'json'{more});"
    )
}

fn pipeline(table: &Table, sizes: &str, query: &str) -> String {
    format!(
        "{} {sizes} CREATE TABLE out (word STRING, n BIGINT, size BIGINT) WITH ('connector' = 'memory'); INSERT INTO out {query};",
        table.ddl()
    )
}

#[test]
fn each_row_gets_what_the_service_says_of_its_key_and_a_key_is_asked_for_once() {
    let web = Web::start(answer);
    for_seeds(4, |rng| {
        let table = Table::random(rng);
        let outer = rng.random::<bool>();
        let found =
            |row: &Row| row.word.as_deref().and_then(size).filter(|size| row.n.is_some_and(|n| n > 0) || *size > 2);
        let rows = table.rows().filter(|row| outer || found(row).is_some());
        let rows = expected(rows.map(|row| row!(row.word, row.n, found(row))));
        let words: BTreeSet<&str> = table.rows().filter_map(|row| row.word.as_deref()).collect();
        let text = pipeline(
            &table,
            &sizes(&format!("{}/sizes/{{word}}", web.address), ", 'lookup.cache.ttl' = 'off'"),
            &format!(
                "SELECT t.word, t.n, s.size FROM t {} JOIN sizes FOR SYSTEM_TIME AS OF PROCTIME() AS s \
                 ON t.word = s.word AND (t.n > 0 OR s.size > 2)",
                if outer { "LEFT" } else { "" }
            ),
        );
        for shape in SHAPES {
            let sink = MemorySink::new();
            let connectors =
                Builtin::default().with_source("t", table.source()).with_sink("out", Arc::new(sink.clone()));
            let (_, result) = run_with(&text, &connectors, shape);
            result.unwrap_or_else(|error| panic!("{error:?} on {shape:?}\n{text}"));
            assert_same(&sorted(&sink), &rows, &format!("{shape:?}: {text}"));
            let mut asked = web.take_asked();
            asked.sort();
            let once: Vec<String> =
                words.iter().filter(|word| !word.is_empty()).map(|word| format!("/sizes/{word}")).collect();
            assert_eq!(asked, once, "{shape:?}");
        }
    });
}

#[test]
fn windows_behind_a_lookup_close_as_those_before_it() {
    let web = Web::start(answer);
    for_seeds(3, |rng| {
        let table = Table::random(rng);
        let sizes = sizes(&format!("{}/sizes/{{word}}", web.address), ", 'lookup.cache.max-rows' = '2'");
        let query = |word: &str, from: &str| {
            format!(
                "SELECT {word}, count(*), sum(size) FROM TUMBLE((SELECT t.word, t.ts, {from}), DESCRIPTOR(ts), INTERVAL '5' SECOND) \
                 GROUP BY window_start, window_end, word"
            )
        };
        let asked =
            query("word", "s.size FROM t LEFT JOIN sizes FOR SYSTEM_TIME AS OF PROCTIME() AS s ON t.word = s.word");
        let worked_out = query(
            "word",
            "CASE WHEN t.word <> '' AND octet_length(t.word) % 3 <> 2 THEN CAST(octet_length(t.word) AS BIGINT) END AS size FROM t",
        );
        let mut answers = Vec::new();
        for (query, shape) in [(&worked_out, SHAPES[0]), (&asked, SHAPES[0]), (&asked, SHAPES[1])] {
            let sink = MemorySink::new();
            let connectors =
                Builtin::default().with_source("t", table.source()).with_sink("out", Arc::new(sink.clone()));
            let used = if query == &asked { sizes.as_str() } else { "" };
            let (snapshot, result) = run_with(&pipeline(&table, used, query), &connectors, shape);
            result.unwrap();
            answers.push((sorted(&sink), snapshot.late_rows()));
        }
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    });
}

/// One row for each word.
fn words(words: &[&str]) -> Table {
    let row = |word: &&str| Row {
        word: Some((*word).to_owned()),
        n: Some(1),
        price: None,
        ratio: None,
        ts: 1_700_000_000_000_000,
        tags: None,
    };
    Table { splits: vec![words.iter().map(row).collect()], tick: 100, delay: 0 }
}

const JOIN: &str =
    "SELECT t.word, t.n, s.size FROM t LEFT JOIN sizes FOR SYSTEM_TIME AS OF PROCTIME() AS s ON t.word = s.word";

/// What a run over `table` ends with.
fn outcome(table: &Table, sizes: &str) -> Result<Vec<String>, (ErrorKind, String)> {
    let sink = MemorySink::new();
    let connectors = Builtin::default().with_source("t", table.source()).with_sink("out", Arc::new(sink.clone()));
    let (_, result) = run_with(&pipeline(table, sizes, JOIN), &connectors, Shape::Threads(1));
    result.map(|()| sorted(&sink)).map_err(|error| (error.kind(), format!("{error}\n{error:?}")))
}

#[test]
fn a_service_that_cannot_answer_now_is_asked_again_and_then_the_run_fails() {
    let failures = Arc::new(AtomicUsize::new(2));
    let left = Arc::clone(&failures);
    let web = Web::start(move |path| {
        match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
            Ok(left) => ([503, 429][left % 2], "later".into()),
            Err(_) => answer(path),
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("token");
    std::fs::write(&secret, "hush-hush").unwrap();
    let options = |retries: usize| {
        format!(", 'lookup.retries' = '{retries}', 'http.authorization' = 'Bearer ${{file:{}}}'", secret.display())
    };
    let table = words(&["naïve"]);
    let url = format!("{}/sizes/{{word}}", web.address);
    assert_eq!(outcome(&table, &sizes(&url, &options(2))).unwrap(), expected([row!("naïve".to_owned(), 1_i64, 6_i64)]));
    assert_eq!(web.tokens(), vec![Some("Bearer hush-hush".to_owned()); 3]);

    failures.store(1000, Ordering::SeqCst);
    let url = format!("{}/sizes/{{word}}?key=${{file:{}}}", web.address, secret.display());
    let (kind, said) = outcome(&table, &sizes(&url, &options(1))).unwrap_err();
    assert_eq!(kind, ErrorKind::Unavailable);
    for part in
        ["look up sizes by word", "table \"sizes\"", "/sizes/{word}?key=${file:", "word = 'naïve'", "asked 2 times"]
    {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert!(said.contains("503") || said.contains("429"), "{said}");
    assert!(!said.contains("hush-hush"), "{said}");
}

#[test]
fn what_no_waiting_mends_ends_the_run_at_once() {
    let web = Web::start(|path| match path.rsplit('/').next().unwrap() {
        "bad" => (400, "no".into()),
        "shut" => (401, "no".into()),
        "list" => (200, "[1, 2]".into()),
        _ => (200, "{\"size\": \"large\"}".into()),
    });
    let url = format!("{}/sizes/{{word}}", web.address);
    for (word, kind, says) in [
        ("bad", ErrorKind::Invalid, "400"),
        ("shut", ErrorKind::Invalid, "http.authorization"),
        ("list", ErrorKind::Data, "the answer cannot be read"),
        ("text", ErrorKind::Data, "column \"size\""),
    ] {
        let (found, said) = outcome(&words(&[word]), &sizes(&url, "")).unwrap_err();
        assert_eq!(found, kind, "{said}");
        assert!(said.contains(says) && said.contains(&format!("word = '{word}'")), "{said}");
        assert_eq!(web.take_asked().len(), 1);
    }
    // nobody there
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (kind, said) =
        outcome(&words(&["a"]), &sizes(&format!("http://{free}/{{word}}"), ", 'lookup.retries' = '0'")).unwrap_err();
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(said.contains("cannot connect") && said.contains("asked once"), "{said}");
    // nobody who answers in time
    let web = Web::start(|_| {
        thread::sleep(Duration::from_secs(3));
        (404, String::new())
    });
    let options = ", 'lookup.retries' = '0', 'lookup.timeout' = '100 ms'";
    let (kind, said) = outcome(&words(&["a"]), &sizes(&format!("{}/{{word}}", web.address), options)).unwrap_err();
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(said.contains("no answer in time"), "{said}");
}

#[test]
fn a_key_that_no_address_can_name_has_no_row() {
    let web = Web::start(answer);
    let url = format!("{}/sizes/{{word}}", web.address);
    let found = outcome(&words(&["", ".", "..", "a/../b", "?", "ab"]), &sizes(&url, "")).unwrap();
    let rows = [("", None), (".", None), ("..", None), ("a/../b", Some(6)), ("?", Some(1)), ("ab", None)];
    assert_eq!(found, expected(rows.map(|(word, size)| row!(word.to_owned(), 1_i64, size.map(i64::from)))));
}

#[test]
fn a_service_that_is_slow_holds_up_what_waits_for_it_and_nothing_else() {
    let open = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&open);
    let web = Web::start(move |path| {
        while !gate.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(5));
        }
        answer(path)
    });
    let table = words(&["a", "bcd", "a"]);
    let (sink, beside) = (MemorySink::new(), MemorySink::new());
    let connectors = Builtin::default()
        .with_source("t", table.source())
        .with_sink("out", Arc::new(sink.clone()))
        .with_sink("beside", Arc::new(beside.clone()));
    let text = format!(
        "{} CREATE TABLE beside (word STRING) WITH ('connector' = 'memory'); INSERT INTO beside SELECT word FROM t;",
        pipeline(&table, &sizes(&format!("{}/sizes/{{word}}", web.address), ""), JOIN)
    );
    let plan = plan(&text, &connectors);
    within(MINUTE, "a slow service", move || {
        let running = runtime::start(plan, Workers::Threads(1), None, Arc::new(SystemClock::default())).unwrap();
        while beside.batches().iter().map(|batch| batch.num_rows()).sum::<usize>() < 3 {
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(sorted(&sink).len(), 0, "nobody has answered");
        open.store(true, Ordering::SeqCst);
        running.wait().1.unwrap();
        let rows = [("a", Some(1)), ("a", Some(1)), ("bcd", Some(3))];
        assert_eq!(sorted(&sink), expected(rows.map(|(word, size)| row!(word.to_owned(), 1_i64, size.map(i64::from)))));
    });
}
