-- Tables that are streams of changes: rows come and are taken back, or are the newest of their key.

SET 'idle_timeout' = 'off';
SET 'unbounded_state' = 'true';
CREATE TABLE accounts (id BIGINT NOT NULL, owner STRING NOT NULL, balance BIGINT, at TIMESTAMP(3), WATERMARK FOR at AS at) WITH (
  'connector' = 'kafka', 'topic' = 'accounts', 'properties.bootstrap.servers' = '127.0.0.1:9092', 'format' = 'debezium-json'
);
CREATE TABLE limits (owner STRING NOT NULL, most BIGINT NOT NULL, PRIMARY KEY (owner) NOT ENFORCED) WITH (
  'connector' = 'kafka', 'topic' = 'limits', 'properties.bootstrap.servers' = '127.0.0.1:9092', 'format' = 'json',
  'scan.changelog' = 'upsert'
);
CREATE TABLE owners (owner STRING, balance BIGINT, PRIMARY KEY (owner) NOT ENFORCED) WITH ('connector' = 'memory');
CREATE TABLE above (id BIGINT, balance BIGINT) WITH ('connector' = 'print');
CREATE TABLE hourly (starts TIMESTAMP(3), accounts BIGINT, highest BIGINT) WITH ('connector' = 'print');
CREATE VIEW totals AS SELECT owner, sum(balance) AS balance FROM accounts GROUP BY owner;
INSERT INTO owners SELECT * FROM totals;
INSERT INTO above SELECT id, balance FROM accounts JOIN limits ON accounts.owner = limits.owner WHERE balance > most;
INSERT INTO hourly
SELECT window_start, count(*), max(balance) FROM tumble(accounts, at, INTERVAL '1' HOUR) GROUP BY window_start;

TEST 'rows are taken back';

INSERT INTO accounts VALUES
  (1, 'ann', 10, TIMESTAMP '2026-01-01 10:00:00'), (2, 'ann', 20, TIMESTAMP '2026-01-01 10:01:00'), (3, 'bob', 5, TIMESTAMP '2026-01-01 10:02:00');
INSERT INTO limits VALUES ('ann', 15), ('bob', 100);
ASSERT TABLE owners IS VALUES ('ann', 30), ('bob', 5);
ASSERT CHANGELOG OF above IS VALUES (+1, 2, 20);

DELETE FROM accounts VALUES (2, 'ann', 20, TIMESTAMP '2026-01-01 10:01:00');
INSERT INTO accounts VALUES (2, 'ann', 12, TIMESTAMP '2026-01-01 10:01:00');     -- an update
DELETE FROM accounts VALUES (3, 'bob', 5, TIMESTAMP '2026-01-01 10:02:00');
ASSERT CHANGELOG OF above IS VALUES (-1, 2, 20);
ASSERT TABLE owners IS VALUES ('ann', 22);
ASSERT TABLE owners IS SELECT owner, sum(balance) FROM accounts GROUP BY owner;

INSERT INTO limits VALUES ('ann', 11);
ASSERT CHANGELOG OF above IS VALUES (+1, 2, 12);

DELETE FROM limits (owner) VALUES ('ann');
ASSERT CHANGELOG OF above IS VALUES (-1, 2, 12);
ASSERT TABLE above IS EMPTY;
ASSERT TABLE above IS SELECT id, balance FROM accounts JOIN limits ON accounts.owner = limits.owner WHERE balance > most;

TEST 'a window holds what stands when it closes';

INSERT INTO accounts VALUES
  (1, 'ann', 10, TIMESTAMP '2026-01-01 10:00:00'), (2, 'ann', 20, TIMESTAMP '2026-01-01 10:01:00'), (3, 'bob', 5, TIMESTAMP '2026-01-01 10:02:00');
TICK;
DELETE FROM accounts VALUES (2, 'ann', 20, TIMESTAMP '2026-01-01 10:01:00');
ASSERT TABLE hourly IS EMPTY;
ADVANCE WATERMARK OF accounts TO TIMESTAMP '2026-01-01 11:00:00';
ASSERT CHANGELOG OF hourly IS VALUES (TIMESTAMP '2026-01-01 10:00:00', 2, 10);

DELETE FROM accounts VALUES (1, 'ann', 10, TIMESTAMP '2026-01-01 10:00:00');     -- too late for its window
INSERT INTO accounts VALUES (4, 'cy', 1, TIMESTAMP '2026-01-01 12:00:00');
TICK;
END;
ASSERT CHANGELOG OF hourly IS VALUES (TIMESTAMP '2026-01-01 12:00:00', 1, 1);
