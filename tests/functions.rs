//! Functions that a program brings along, and functions in WebAssembly: beside built-in ones that say the same, and everything that a
//! guest may do wrong.

#[path = "support/functions.rs"]
mod functions;
#[path = "support/pipeline.rs"]
mod pipeline;

use highwater::connector::builtin::Builtin;
use highwater::connector::extensions::Extensions;
use highwater::connector::memory::MemorySink;
use highwater::error::{Error, ErrorKind, report};
use highwater::sql::{self, Text};
use pipeline::{SHAPES, Shape, Table, assert_same, expected, for_seeds, run_with, sorted};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The rows of `query` over `table`, on `shape`; `declared` stands before it.
fn answer(table: &Table, declared: &str, query: &str, columns: &str, shape: Shape) -> Result<Vec<String>, Error> {
    let sink = MemorySink::new();
    let source = Arc::unwrap_or_clone(table.source());
    let extensions = functions::extensions().source("t", source).sink("out", sink.clone());
    let text = format!(
        "{declared} {} CREATE TABLE out ({columns}) WITH ('connector' = 'memory'); INSERT INTO out {query};",
        table.ddl()
    );
    run_with(&text, &extensions, shape).1.map(|()| sorted(&sink))
}

/// CREATE FUNCTION statements for the guests of examples/wasm, as modules in `folder`.
fn declared(folder: &Path) -> String {
    for name in ["fee", "shout"] {
        let module = wat::parse_file(functions::example(&format!("{name}.wat"))).expect("it is WebAssembly");
        fs::write(folder.join(format!("{name}.wasm")), module).expect("the folder can be written to");
    }
    let same = wat::parse_str(SAME).expect("it is WebAssembly");
    fs::write(folder.join("same.wasm"), same).expect("the folder can be written to");
    let folder = folder.display();
    format!(
        "CREATE FUNCTION fee(cents BIGINT, per_mille BIGINT) RETURNS BIGINT RETURNS NULL ON NULL INPUT \
           LANGUAGE wasm AS '{folder}/fee.wasm';
         CREATE FUNCTION shout(text STRING) RETURNS STRING AS '{folder}/shout.wasm' LANGUAGE wasm;
         CREATE FUNCTION same(list ARRAY<STRING>) RETURNS ARRAY<STRING> LANGUAGE wasm AS '{folder}/same.wasm'
           WITH ('fuel' = '1', 'memory' = '1 MiB');"
    )
}

/// Gives the message back that it was given.
const SAME: &str = r#"(module
    (memory (export "memory") 8)
    (func (export "alloc") (param i32) (result i32) (i32.const 64))
    (func (export "free") (param $at i32) (param $size i32)
      (if (i32.ne (local.get $at) (i32.const 64)) (then (unreachable))))
    (func (export "call") (param $at i32) (param $length i32) (result i64)
      (i64.or
        (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32))
        (i64.extend_i32_u (local.get $length)))))"#;

#[test]
fn functions_say_what_built_in_ones_say() {
    const QUERIES: [(&str, &str, &str); 6] = [
        (
            "word STRING, f BIGINT, s STRING, tags ARRAY<STRING>",
            "SELECT word, fee(n, n + 1), shout(word), same(tags) FROM t WHERE fee(n, 1000) > -500 OR shout(word) = 'TO'",
            "SELECT word, n * (n + 1) / 1000, translate(word, 'abcdefghijklmnopqrstuvwxyz', 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'), tags \
             FROM t WHERE n * 1000 / 1000 > -500 OR word = 'to'",
        ),
        (
            "a TIMESTAMP(6), word STRING, s BIGINT, q BIGINT",
            "SELECT window_start, word, spread(n), squares(n) FROM HOP(t, ts, INTERVAL '5' SECOND, INTERVAL '15' SECOND) \
             GROUP BY window_start, window_end, word",
            "SELECT window_start, word, max(n) - min(n), sum(n * n) \
             FROM HOP(t, ts, INTERVAL '5' SECOND, INTERVAL '15' SECOND) GROUP BY window_start, window_end, word",
        ),
        (
            "a TIMESTAMP(6), word STRING, s BIGINT, q BIGINT",
            "SELECT window_start, word, spread(n) FILTER (WHERE n > 0), squares(n) FILTER (WHERE word <> 'to') \
             FROM SESSION(t, ts, INTERVAL '3' SECOND) GROUP BY window_start, window_end, word",
            "SELECT window_start, word, max(n) FILTER (WHERE n > 0) - min(n) FILTER (WHERE n > 0), \
             sum(n * n) FILTER (WHERE word <> 'to') \
             FROM SESSION(t, ts, INTERVAL '3' SECOND) GROUP BY window_start, window_end, word",
        ),
        (
            "word STRING, s BIGINT, q BIGINT",
            "SELECT word, spread(n), squares(n) FROM t GROUP BY word",
            "SELECT word, max(n) - min(n), sum(n * n) FROM t GROUP BY word",
        ),
        (
            "word STRING, s BIGINT, q BIGINT",
            "SELECT word, spread(n + 1), squares(n - 1) FROM t GROUP BY word HAVING squares(n - 1) > 10 EMIT FINAL",
            "SELECT word, max(n) - min(n), sum((n - 1) * (n - 1)) FROM t GROUP BY word \
             HAVING sum((n - 1) * (n - 1)) > 10 EMIT FINAL",
        ),
        (
            "s BIGINT, q BIGINT",
            "SELECT spread(n), squares(n) FROM t WHERE n > 2000 EMIT FINAL",
            "SELECT max(n) - min(n), sum(n * n) FROM t WHERE n > 2000 EMIT FINAL",
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    let declared = declared(folder.path());
    for_seeds(3, |rng| {
        let table = Table::random(rng);
        for (columns, own, built_in) in QUERIES {
            let shape = SHAPES[rand::Rng::random_range(rng, 0..SHAPES.len())];
            let expected = expected(answer(&table, "", built_in, columns, shape).unwrap());
            let found = answer(&table.shuffled(rng), &declared, own, columns, shape);
            assert_same(&found.unwrap_or_else(|error| panic!("{own}: {error:?}")), &expected, own);
        }
    });
}

/// What `highwater check` says of `sql`, whose file is in `folder`.
fn refused(folder: &Path, sql: &str) -> String {
    let name = folder.join("p.sql").display().to_string();
    let error = match sql::plan(Text { name: &name, sql }, &[], &Extensions::new()) {
        Err(error) => error,
        Ok(_) => panic!("accepted: {sql}"),
    };
    assert!(error.each().all(|error| error.kind() == ErrorKind::Invalid), "{error:?}");
    report(&error, false).replace(&format!("{}/", folder.display()), "")
}

const ALLOC: &str = r#"(memory (export "memory") 1) (func (export "alloc") (param i32) (result i32) (i32.const 64))"#;

#[test]
fn a_module_that_does_not_keep_to_the_protocol_is_refused_when_it_is_planned() {
    let folder = tempfile::tempdir().unwrap();
    let call = r#"(func (export "call_raw") (param i32 i32) (result i32) (i32.const 0))"#;
    for (module, expected) in [
        (
            format!("{ALLOC} (func (export \"cal_raw\"))"),
            "it exports neither 'call_raw' nor 'call'|help: it exports 'cal_raw': call that 'call_raw'",
        ),
        (
            format!("{ALLOC} (func (export \"call_raw\") (param i64 i32) (result i32) (i32.const 0))"),
            "export 'call_raw' is (i64, i32) -> i32, not (i32, i32) -> i32|help: declare it",
        ),
        (format!("{ALLOC} (global (export \"call_raw\") i32 (i32.const 0))"), "export 'call_raw' is not a function"),
        (
            format!("(memory (export \"memory\") 1) {call}"),
            "it does not export 'alloc'|help: export a function alloc (i32) -> i32",
        ),
        (
            format!(
                "(memory (export \"memory\") 1) (func (export \"malloc\") (param i32) (result i32) (i32.const 64)) {call}"
            ),
            "it does not export 'alloc'|help: it exports 'malloc': call that 'alloc'",
        ),
        (
            format!("(memory 1) (func (export \"alloc\") (param i32) (result i32) (i32.const 64)) {call}"),
            "it does not export its memory",
        ),
        (
            format!(
                "(memory (export \"memory\") 2000) (func (export \"alloc\") (param i32) (result i32) (i32.const 64)) {call}"
            ),
            "it wants 131072000 bytes of memory, and may have 67108864|help: allow it more: WITH ('memory' = '125 MiB')",
        ),
        (
            format!("(import \"wasi_snapshot_preview1\" \"fd_write\" (func)) {ALLOC} {call}"),
            "it imports 'wasi_snapshot_preview1.fd_write'|help: a function gets nothing from outside",
        ),
        (
            format!("{ALLOC} {call} (func $loop (loop (br 0))) (start $loop)"),
            "at its start: f() of 'f.wasm' did not end within",
        ),
        (format!("{ALLOC} {call} (func $no unreachable) (start $no)"), "at its start: f() of 'f.wasm' failed"),
        (
            format!("{ALLOC} {call} (func (export \"error\") (result i32) (i32.const 0))"),
            "export 'error' is () -> i32, not () -> i64",
        ),
    ] {
        let code = wat::parse_str(format!("(module {module})")).expect("it is WebAssembly");
        fs::write(folder.path().join("f.wasm"), code).unwrap();
        let name = folder.path().join("p.sql").display().to_string();
        let text = "CREATE FUNCTION f(a BIGINT) RETURNS BIGINT LANGUAGE wasm AS 'f.wasm'; SELECT f(1);";
        let error = sql::plan(Text { name: &name, sql: text }, &[], &Extensions::new()).err().expect("it is refused");
        let said = report(&error, false);
        assert!(expected.split('|').all(|part| said.contains(part)), "{module}: {expected} is not in\n{said}");
        assert!(said.contains("p.sql:1:61"), "{said}");
    }
    fs::write(folder.path().join("f.wasm"), "(module)").unwrap();
    let of = |what: &str| refused(folder.path(), &format!("{what}; SELECT 1;"));
    let said = of("CREATE FUNCTION f(a BIGINT) RETURNS BIGINT LANGUAGE wasm AS 'f.wasm'");
    assert!(said.contains("f() of 'f.wasm': it is not a WebAssembly module") && said.contains("wat2wasm"), "{said}");
    let module = format!("(module {ALLOC} {call})");
    fs::write(folder.path().join("f.wasm"), wat::parse_str(module).unwrap()).unwrap();
    let said = of("CREATE FUNCTION f(a ARRAY<BIGINT>) RETURNS BIGINT LANGUAGE wasm AS 'f.wasm'");
    assert!(
        said.contains("call_raw does not take or give an ARRAY, MAP or ROW") && said.contains("export 'call'"),
        "{said}"
    );
    let said = of("CREATE AGGREGATE FUNCTION f(a BIGINT) RETURNS BIGINT STATE (s BIGINT) LANGUAGE wasm AS 'f.wasm'");
    assert!(said.contains("it does not export 'accumulate'"), "{said}");
    let said =
        of("CREATE AGGREGATE FUNCTION f(a BIGINT) RETURNS BIGINT STATE (s ARRAY<INT>) LANGUAGE wasm AS 'f.wasm'");
    assert!(said.contains("takes, keeps and gives no ARRAY, MAP or ROW"), "{said}");
}

#[test]
fn a_wrong_call_is_answered_as_that_of_a_built_in_function_is() {
    let folder = tempfile::tempdir().unwrap();
    let declared = declared(folder.path());
    let of = |query: &str| refused(folder.path(), &format!("{declared}\n{query};"));
    for (query, expected) in [
        ("SELECT feee(1, 2)", "unknown function 'feee'|did you mean 'fee'?"),
        ("SELECT fee(1)", "fee() takes 2 arguments, not 1"),
        ("SELECT fee(1, 'x')", "argument 2 of fee() is BIGINT, not STRING"),
        ("CREATE FUNCTION fee(a INT) RETURNS INT LANGUAGE wasm AS 'fee.wasm'; SELECT 1", "fee() is declared twice"),
        ("CREATE FUNCTION upper(a INT) RETURNS INT LANGUAGE wasm AS 'fee.wasm'; SELECT 1", "upper() is there already"),
        ("CREATE FUNCTION now(a INT) RETURNS INT LANGUAGE wasm AS 'fee.wasm'; SELECT 1", "now() is there already"),
    ] {
        let said = of(query);
        assert!(expected.split('|').all(|part| said.contains(part)), "{query}: {expected} is not in\n{said}");
    }
    let said = refused(folder.path(), "CREATE FUNCTION f(a INT) RETURNS INT LANGUAGE wasm AS 'g.wasm'; SELECT f(1);");
    assert_eq!(
        said.matches("error").count() - said.matches("os error").count(),
        1,
        "the call is not a mistake of its own\n{said}"
    );
}

#[test]
fn distinct_and_order_in_an_aggregate_of_a_program_are_refused() {
    let of = |call: &str| {
        let sql = format!("SELECT {call} FROM (VALUES (1), (2)) AS t (n) EMIT FINAL;");
        let error = sql::plan(Text { name: "p.sql", sql: &sql }, &[], &functions::extensions()).err();
        report(&error.expect("it is refused"), false)
    };
    let said = of("spread(DISTINCT n)");
    assert!(said.contains("DISTINCT in spread() is not supported") && said.contains("help: select"), "{said}");
    let said = of("squares(n ORDER BY n)");
    assert!(said.contains("ORDER BY in squares() is not supported"), "{said}");
    let said = of("sprea(n)");
    assert!(said.contains("did you mean 'spread'?"), "{said}");
}

/// What a run says in which `f`, of `module`, is called with the numbers of a table.
fn failure(folder: &Path, module: &str, options: &str) -> Error {
    fs::write(folder.join("f.wasm"), wat::parse_str(format!("(module {module})")).expect("it is WebAssembly")).unwrap();
    let declared =
        format!("CREATE FUNCTION f(a BIGINT) RETURNS BIGINT LANGUAGE wasm AS '{}/f.wasm' {options};", folder.display());
    let mut rng = rand::SeedableRng::seed_from_u64(1);
    let table = Table::random(&mut rng);
    answer(&table, &declared, "SELECT f(n) FROM t", "f BIGINT", Shape::Threads(2)).expect_err("it fails")
}

#[test]
fn what_a_guest_does_wrong_ends_the_run_and_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let call = |body: &str| format!("{ALLOC} (func (export \"call_raw\") (param i32 i32) (result i32) {body})");
    let reason = r#"(data (i32.const 8) "no such shop") (func (export "error") (result i64) (i64.const 0x80000000C))"#;
    let whole = "(i32.store (i32.const 16) (i32.const 0)) (i32.store (i32.const 20) (i32.const -8)) (i32.const 16)";
    for (module, options, expected) in [
        (call("(unreachable)"), "", "f() of '|f.wasm' failed: |unreachable"),
        (
            call("(loop (br 0)) (unreachable)"),
            "WITH ('fuel' = '10')",
            "did not end within 1000|instructions for a batch",
        ),
        (
            format!("(func $deep (result i32) (i32.add (call $deep) (i32.const 1))) {}", call("(call $deep)")),
            "",
            "failed: |stack",
        ),
        (call("(i32.load (i32.const -4))"), "", "failed: |out of bounds memory access"),
        (call("(i32.const 0)"), "", "failed: its call_raw gave 0"),
        (format!("{} {reason}", call("(i32.const 0)")), "", "failed: no such shop"),
        (format!("{} {reason}", call("(unreachable)")), "", "failed: no such shop"),
        (call("(i32.const -4)"), "", "it gave a record of 12 bytes at 4294967292, which is outside of its memory"),
        (call(whole), "", "it gave values of|which is outside of its memory"),
        (
            call("(if (i32.eq (memory.grow (i32.const 100)) (i32.const -1)) (then (unreachable))) (i32.const 16)"),
            "WITH ('memory' = '1 MiB')",
            "needs more than the 1048576 bytes of memory that it may have",
        ),
        (
            call("(i32.const 16)").replace("(i32.const 64)", "(i32.const 65)"),
            "",
            "its alloc gave 65, which is not a multiple of 16",
        ),
        (call("(i32.const 16)").replace("(i32.const 64)", "(i32.const 65520)"), "", "its alloc gave room of"),
        (call("(i32.const 16)").replace("(i32.const 64)", "(i32.const 0)"), "", "its alloc has no"),
        (
            call("(i32.const 16)")
                .replace("call_raw", "call")
                .replace("(result i32) (i32.const 16)", "(result i64) (i64.const 0x1000000004)"),
            "",
            "it gave what is no Arrow IPC stream",
        ),
    ] {
        let started = Instant::now();
        let error = failure(folder.path(), &module, options);
        let said = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Data, "{said}");
        assert!(expected.split('|').all(|part| said.contains(part)), "{module}: {expected} is not in\n{said}");
        assert!(started.elapsed() < Duration::from_secs(30), "{module} took {:?}", started.elapsed());
    }
}

#[test]
fn the_code_is_part_of_the_plan() {
    let folder = tempfile::tempdir().unwrap();
    let fingerprint = |module: &str, options: &str| {
        fs::write(folder.path().join("f.wasm"), wat::parse_str(format!("(module {module})")).unwrap()).unwrap();
        let name = folder.path().join("p.sql").display().to_string();
        let sql = format!(
            "CREATE FUNCTION f(a BIGINT) RETURNS BIGINT LANGUAGE wasm AS 'f.wasm' {options};
             SELECT sum(f(n)) FROM (VALUES (1), (2)) AS t (n) WHERE f(n) > 0 EMIT FINAL;"
        );
        let plan = sql::plan(Text { name: &name, sql: &sql }, &[], &Builtin::default()).unwrap();
        (plan.fingerprint(), plan.explain_text())
    };
    let call = |number: &str| {
        format!("{ALLOC} (func (export \"call_raw\") (param i32 i32) (result i32) (i32.const {number}))")
    };
    let first = fingerprint(&call("16"), "");
    assert_eq!(first, fingerprint(&call("16"), ""));
    assert_ne!(first.0, fingerprint(&call("32"), "").0);
    assert_ne!(first.0, fingerprint(&call("16"), "RETURNS NULL ON NULL INPUT").0);
    assert_eq!(first.0, fingerprint(&call("16"), "WITH ('fuel' = '5')").0, "states are kept when a limit is raised");
    assert!(first.1.contains("f("), "{}", first.1);
    assert_eq!(first.1, fingerprint(&call("32"), "").1, "people need not read digests");
}

#[test]
fn the_state_of_an_aggregate_is_that_of_its_code() {
    let identities = |module: &str, options: &str| {
        let sql = format!(
            "CREATE AGGREGATE FUNCTION f(n BIGINT) RETURNS BIGINT STATE (sum BIGINT) LANGUAGE wasm AS '{module}' {options};
             SELECT f(n) FROM (VALUES (1), (2)) AS t (n) EMIT FINAL;"
        );
        let plan = sql::plan(Text { name: "p.sql", sql: &sql }, &[], &Builtin::default()).unwrap();
        plan.identities()
    };
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("squares.wasm").display().to_string();
    let text = fs::read_to_string(functions::example("squares.wat")).unwrap().replace("i64.mul", "i64.add");
    fs::write(&other, wat::parse_str(text).expect("it is WebAssembly")).unwrap();
    let own = functions::example("squares.wasm").display().to_string();
    let first = identities(&own, "");
    assert_eq!(first.len(), 1);
    assert_eq!(first, identities(&own, "WITH ('fuel' = '7')"));
    assert_ne!(first, identities(&other, ""));
}

#[test]
fn the_modules_beside_the_examples_are_what_their_texts_say() {
    for name in ["fee", "shout", "squares"] {
        let (text, module) = (functions::example(&format!("{name}.wat")), functions::example(&format!("{name}.wasm")));
        let compiled = wat::parse_file(text).expect("it is WebAssembly");
        if std::env::var_os("UPDATE_WASM").is_some() {
            fs::write(&module, &compiled).unwrap();
        }
        assert!(fs::read(&module).is_ok_and(|found| found == compiled), "UPDATE_WASM=1 writes {}", module.display());
    }
}

/// Not a test but a measurement: `cargo test --test functions -- --ignored --nocapture nanoseconds`.
#[test]
#[ignore = "it measures"]
fn nanoseconds_for_a_row() {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use highwater::connector::memory::MemorySource;
    use highwater::runtime::{self, Workers};
    use highwater::time::SystemClock;
    const ROWS: i64 = 8192;
    const BATCHES: usize = 200;
    let folder = tempfile::tempdir().unwrap();
    let declared = declared(folder.path());
    let (n, m): (ArrayRef, ArrayRef) =
        (Arc::new(Int64Array::from_iter_values(0..ROWS)), Arc::new(Int64Array::from_iter_values(0..ROWS)));
    let batch = RecordBatch::try_from_iter([("n", n), ("m", m)]).unwrap();
    let batches = vec![batch.clone(); BATCHES];
    let echo = format!(
        "CREATE FUNCTION echo(n BIGINT) RETURNS BIGINT LANGUAGE wasm AS '{0}/same.wasm'; CREATE AGGREGATE FUNCTION \
         squares(n BIGINT) RETURNS BIGINT STATE (sum BIGINT) LANGUAGE wasm AS '{1}';",
        folder.path().display(),
        functions::example("squares.wasm").display()
    );
    let rows = ["n", "n * m / 1000", "fee(n, m)", "echo(n)"].map(|value| format!("SELECT n FROM t WHERE {value} < 0"));
    let groups = ["max(n)", "sum(n * n)", "squares(n)"];
    let groups = groups.map(|value| format!("SELECT {value} FROM t GROUP BY n % 1000 EMIT FINAL"));
    let queries: Vec<String> = rows.into_iter().chain(groups).collect();
    for query in queries.iter().chain(&queries) {
        let source = MemorySource::new(batch.schema(), batches.clone(), 1);
        let extensions = Extensions::new().source("t", source).sink("out", MemorySink::new());
        let text = format!(
            "{declared} {echo} CREATE TABLE t (n BIGINT, m BIGINT) WITH ('connector' = 'memory');
             CREATE TABLE out (n BIGINT) WITH ('connector' = 'memory');
             INSERT INTO out {query};"
        );
        let plan = sql::plan(Text { name: "p.sql", sql: &text }, &[], &extensions).unwrap();
        let started = Instant::now();
        let running = runtime::start(plan, Workers::Threads(1), None, Arc::new(SystemClock::default())).unwrap();
        running.wait().1.unwrap();
        let taken = started.elapsed();
        println!("{query}: {:.1} ns a row", taken.as_nanos() as f64 / (ROWS as f64 * BATCHES as f64));
    }
}
