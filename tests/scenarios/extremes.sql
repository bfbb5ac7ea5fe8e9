-- Least and greatest values and distinct ones, over rows that stand and over rows that are taken back.

CREATE TABLE t (k BIGINT, v BIGINT) WITH ('connector' = 'kafka', 'topic' = 't', 'properties.bootstrap.servers' = '127.0.0.1:1', 'format' = 'json');

CREATE TABLE changes (id BIGINT, k BIGINT, v BIGINT, PRIMARY KEY (id) NOT ENFORCED) WITH (
  'connector' = 'kafka', 'topic' = 'changes', 'properties.bootstrap.servers' = '127.0.0.1:1', 'format' = 'debezium-json'
);

SET 'unbounded_state' = 'true';

CREATE TABLE of_keys (k BIGINT, n BIGINT, s BIGINT, kinds BIGINT) WITH ('connector' = 'print');
CREATE TABLE of_all (most BIGINT, n BIGINT) WITH ('connector' = 'print');
CREATE TABLE of_changes (k BIGINT, n BIGINT, least BIGINT, most BIGINT, kinds BIGINT, mean DOUBLE) WITH ('connector' = 'print');

INSERT INTO of_keys SELECT k, count(k), sum(k), count(DISTINCT v) FROM t GROUP BY k;
INSERT INTO of_all SELECT max(n), count(*) FROM (SELECT k, count(*) AS n FROM t GROUP BY k);
INSERT INTO of_changes SELECT k, count(k), min(v), max(v) FILTER (WHERE v < 9), count(DISTINCT v), avg(DISTINCT v) FROM changes GROUP BY k;

TEST 'a column of the key is counted once for each row';

INSERT INTO t VALUES (5, 1), (5, 2), (5, 2), (NULL, 1);
ASSERT TABLE of_keys IS VALUES (5, 3, 15, 2), (NULL, 0, NULL, 1);

TEST 'the greatest of results that change, without a key';

INSERT INTO t VALUES (5, 1), (5, 2), (6, 2);
ASSERT TABLE of_all IS VALUES (2, 2);
INSERT INTO t VALUES (6, 1), (6, 1);
ASSERT TABLE of_all IS VALUES (3, 2);

TEST 'values come back when what was before them goes';

INSERT INTO changes VALUES (1, 7, 3), (2, 7, 3), (3, 7, 8), (4, 7, 10), (5, 8, NULL);
ASSERT TABLE of_changes IS VALUES (7, 4, 3, 8, 3, 7.0), (8, 1, NULL, NULL, 0, NULL);
DELETE FROM changes VALUES (3, 7, 8), (1, 7, 3);
ASSERT TABLE of_changes IS VALUES (7, 2, 3, 3, 2, 6.5), (8, 1, NULL, NULL, 0, NULL);
DELETE FROM changes VALUES (2, 7, 3), (4, 7, 10), (5, 8, NULL);
ASSERT TABLE of_changes IS EMPTY;
