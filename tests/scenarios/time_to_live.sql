-- Aggregates of rows that are taken back and whose time ends: all calls of a key see the same rows.

SET 'state_ttl' = '3 s';

CREATE TABLE changes (
  id BIGINT, k BIGINT, v BIGINT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts, PRIMARY KEY (id) NOT ENFORCED
) WITH (
  'connector' = 'kafka', 'topic' = 'changes', 'properties.bootstrap.servers' = '127.0.0.1:1', 'format' = 'debezium-json'
);

CREATE TABLE most (k BIGINT, most BIGINT, kinds BIGINT, n BIGINT) WITH ('connector' = 'print');

INSERT INTO most SELECT k, max(v), count(DISTINCT v), count(*) FROM changes GROUP BY k;

TEST 'a key leaves with its last row';

INSERT INTO changes VALUES (1, 1, 5, TIMESTAMP '2026-01-01 10:00:00'), (2, 1, 6, TIMESTAMP '2026-01-01 10:00:01');
ASSERT TABLE most IS VALUES (1, 6, 2, 2);
INSERT INTO changes VALUES (3, 2, 5, TIMESTAMP '2026-01-01 10:00:30');
TICK;
TICK;
ASSERT TABLE most IS VALUES (2, 5, 1, 1);
