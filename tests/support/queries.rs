//! Queries over the table of the tests, for runs that end and go on: what each says is a function of the epochs.
#![allow(dead_code)] // each test file uses its part

use crate::pipeline::Table;

/// The queries.
pub const QUERIES: &[&str] = &[
    "SELECT word, n, ts FROM t WHERE n > 0",
    "SELECT window_start, word, count(*) AS c, sum(n) AS s, max(price) AS p FROM TUMBLE(t, ts, INTERVAL '10' SECOND) GROUP BY window_start, window_end, word",
    "SELECT window_end, count(DISTINCT word) AS c, avg(ratio) AS r FROM HOP(t, ts, INTERVAL '5' SECOND, INTERVAL '15' SECOND) GROUP BY window_start, window_end",
    "SELECT window_start, window_end, word, count(*) AS c FROM SESSION(t, ts, INTERVAL '3' SECOND) GROUP BY window_start, window_end, word",
    "SELECT word, count(*) AS c, sum(n) AS s FROM t GROUP BY word",
    "SELECT word, count(*) AS c, sum(n) AS s FROM t GROUP BY word EMIT FINAL",
    "SELECT count(*) AS c FROM t EMIT FINAL",
    "SELECT window_start, word, n, r FROM (SELECT *, row_number() OVER (PARTITION BY window_start, window_end, word ORDER BY n DESC) AS r FROM TUMBLE(t, ts, INTERVAL '10' SECOND)) WHERE r <= 2",
    "SELECT a.window_start, a.word, a.c, b.n FROM (SELECT window_start, window_end, word, count(*) AS c FROM TUMBLE(t, ts, INTERVAL '10' SECOND) GROUP BY window_start, window_end, word) a JOIN (SELECT window_start, window_end, word, n FROM TUMBLE(t, ts, INTERVAL '10' SECOND)) b ON a.window_start = b.window_start AND a.window_end = b.window_end AND a.word = b.word",
    "SELECT a.word, a.n, b.c FROM t a LEFT JOIN (SELECT word, count(*) AS c FROM t WHERE n > 2 GROUP BY word) b ON a.word = b.word",
    "SELECT word, n, ts FROM t ORDER BY n DESC, ts LIMIT 5",
    "SELECT word, n, ts FROM (SELECT *, row_number() OVER (PARTITION BY word ORDER BY n DESC, ts) AS r FROM t) WHERE r <= 2",
    "SELECT word, c FROM (SELECT word, count(*) AS c FROM t GROUP BY word) ORDER BY c DESC, word LIMIT 3",
    "SELECT word, count(DISTINCT n) AS c, sum(n) AS s FROM t GROUP BY word",
    "SELECT x.word, x.m, y.c FROM (SELECT a.word, b.n AS m FROM t a JOIN t b ON a.word = b.word AND b.ts BETWEEN a.ts AND a.ts + INTERVAL '2' SECOND) x JOIN (SELECT word, max(n) AS c FROM t GROUP BY word) y ON x.word = y.word",
    "WITH RECURSIVE r AS (SELECT n FROM t UNION SELECT n - 1 FROM r WHERE n > 0) SELECT n FROM r",
    "SELECT a.word, a.ts, a.n, b.n AS other FROM t a FULL JOIN t b ON a.word = b.word AND b.n < a.n AND b.ts BETWEEN a.ts - INTERVAL '2' SECOND AND a.ts + INTERVAL '5' SECOND",
    "SELECT word, n, n IN (SELECT n FROM t WHERE word <> 'a') AS there FROM t WHERE n NOT IN (SELECT n + 3 FROM t) EXCEPT ALL SELECT word, n, true FROM t WHERE n > 3",
    "SELECT window_start, count(*) AS c, max(n) AS m FROM TUMBLE((SELECT word, n, ts FROM (SELECT *, row_number() OVER (PARTITION BY word ORDER BY n DESC, ts) AS r FROM t) WHERE r <= 3), ts, INTERVAL '10' SECOND) GROUP BY window_start, window_end",
    "SELECT word, count(*) AS c, max(n) AS m FROM newest GROUP BY word",
    "SELECT window_start, word, sum(n) AS s FROM TUMBLE(newest, ts, INTERVAL '10' SECOND) GROUP BY window_start, window_end, word",
    "SELECT a.id, a.n, b.c FROM newest a LEFT JOIN (SELECT word, count(*) AS c FROM t GROUP BY word) b ON a.word = b.word WHERE a.id NOT IN (SELECT n FROM newest WHERE n > 0)",
    "SELECT c, min(word) AS word FROM (SELECT word, count(*) AS c FROM t GROUP BY word) GROUP BY c EMIT FINAL",
    "SELECT a.word, a.n, a.ts, b.n AS m FROM t AS a ASOF LEFT JOIN t AS b MATCH_CONDITION (a.ts > b.ts) ON a.word = b.word",
    "WITH v AS (SELECT word, n, ts FROM (SELECT *, row_number() OVER (PARTITION BY word ORDER BY ts DESC) AS r FROM t WHERE n > 1) WHERE r = 1) SELECT window_start, word, count(m) AS c, sum(m) AS s FROM TUMBLE((SELECT a.word, a.ts, v.n AS m FROM t AS a JOIN v FOR SYSTEM_TIME AS OF a.ts ON a.word = v.word), DESCRIPTOR(ts), INTERVAL '10' SECOND) GROUP BY window_start, window_end, word",
    "SELECT window_start, word, count(*) AS c, sum(CASE WHEN octet_length(word) % 4 <> 3 THEN n END) AS s FROM TUMBLE(t, ts, INTERVAL '10' SECOND) GROUP BY window_start, window_end, word",
];

/// The columns that the queries give, by their number in [`QUERIES`].
pub const COLUMNS: &[&str] = &[
    "word STRING, n BIGINT, ts TIMESTAMP(6)",
    "window_start TIMESTAMP(6), word STRING, c BIGINT, s BIGINT, p DECIMAL(12, 2)",
    "window_end TIMESTAMP(6), c BIGINT, r DOUBLE",
    "window_start TIMESTAMP(6), window_end TIMESTAMP(6), word STRING, c BIGINT",
    "word STRING, c BIGINT, s BIGINT",
    "word STRING, c BIGINT, s BIGINT",
    "c BIGINT",
    "window_start TIMESTAMP(6), word STRING, n BIGINT, r BIGINT",
    "window_start TIMESTAMP(6), word STRING, c BIGINT, n BIGINT",
    "word STRING, n BIGINT, c BIGINT",
    "word STRING, n BIGINT, ts TIMESTAMP(6)",
    "word STRING, n BIGINT, ts TIMESTAMP(6)",
    "word STRING, c BIGINT",
    "word STRING, c BIGINT, s BIGINT",
    "word STRING, m BIGINT, c BIGINT",
    "n BIGINT",
    "word STRING, ts TIMESTAMP(6), n BIGINT, other BIGINT",
    "word STRING, n BIGINT, there BOOLEAN",
    "window_start TIMESTAMP(6), c BIGINT, m BIGINT",
    "word STRING, c BIGINT, m BIGINT",
    "window_start TIMESTAMP(6), word STRING, s BIGINT",
    "id BIGINT, n BIGINT, c BIGINT",
    "c BIGINT, word STRING",
    "word STRING, n BIGINT, ts TIMESTAMP(6), m BIGINT",
    "window_start TIMESTAMP(6), word STRING, c BIGINT, s BIGINT",
    "window_start TIMESTAMP(6), word STRING, c BIGINT, s BIGINT",
];

/// The definition of a pipeline with the query.
pub fn text(table: &Table, query: usize) -> String {
    let out = format!("CREATE TABLE out ({}) WITH ('connector' = 'memory');", COLUMNS[query]);
    format!("{}{}{out} INSERT INTO out {};", table.ddl(), table.newest_ddl(), QUERIES[query])
}
