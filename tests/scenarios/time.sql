-- Idle tables, the wall clock, and rows from too far ahead.

CREATE TABLE a (x BIGINT, at TIMESTAMP(3), WATERMARK FOR at AS at) WITH ('connector' = 'memory', 'scan.watermark.idle-timeout' = '1 min');
CREATE TABLE b (x BIGINT, at TIMESTAMP(3), WATERMARK FOR at AS at) WITH ('connector' = 'memory', 'scan.watermark.idle-timeout' = '1 day');
CREATE TABLE c (x BIGINT, at TIMESTAMP(3), WATERMARK FOR at AS at)
WITH ('connector' = 'memory', 'scan.watermark.idle-timeout' = '10 s',
  'scan.watermark.when-all-idle' = 'wall_clock', 'on_error' = 'skip');
CREATE TABLE both (start TIMESTAMP(3), n BIGINT) WITH ('connector' = 'memory');
CREATE TABLE alone (start TIMESTAMP(3), n BIGINT) WITH ('connector' = 'memory');

CREATE VIEW either AS SELECT x, at FROM a UNION ALL SELECT x, at FROM b;
INSERT INTO both SELECT window_start, count(*) FROM tumble(either, at, INTERVAL '1' MINUTE) GROUP BY window_start;
INSERT INTO alone SELECT window_start, count(*) FROM tumble(c, at, INTERVAL '1' MINUTE) GROUP BY window_start;

TEST 'a table that is silent holds the watermark';

INSERT INTO a VALUES (1, TIMESTAMP '2026-01-01 00:00:00');
INSERT INTO b VALUES (2, TIMESTAMP '2026-01-01 00:05:00');
ADVANCE TIME BY INTERVAL '1' HOUR;
ASSERT TABLE both IS EMPTY;
ADVANCE WATERMARK OF a BY INTERVAL '1' MINUTE;
ASSERT TABLE both IS VALUES (TIMESTAMP '2026-01-01 00:00:00', 1);

TEST 'when all is silent the watermark may follow the wall clock';

ADVANCE TIME TO TIMESTAMP '2026-01-01 00:00:30';
INSERT INTO c VALUES (1, TIMESTAMP '2026-01-01 00:00:20');
ADVANCE TIME TO TIMESTAMP '2026-01-01 00:00:59';
ASSERT TABLE alone IS EMPTY;
-- ten seconds behind the clock, as it was when the epoch ended
ADVANCE TIME TO TIMESTAMP '2026-01-01 00:01:09.999';
ASSERT TABLE alone IS EMPTY;
ADVANCE TIME TO TIMESTAMP '2026-01-01 00:01:10';
ASSERT TABLE alone IS VALUES (TIMESTAMP '2026-01-01 00:00:00', 1);

TEST 'event time from too far ahead is bad where the test says what time it is';

ADVANCE TIME TO TIMESTAMP '2026-01-01 00:00:00';
INSERT INTO c VALUES (1, TIMESTAMP '2026-01-02 00:00:00'), (2, TIMESTAMP '2026-01-02 00:00:00.001');
END;
ASSERT TABLE alone IS VALUES (TIMESTAMP '2026-01-02 00:00:00', 1);

TEST 'and any is good where it does not';

INSERT INTO c VALUES (1, TIMESTAMP '2226-01-02 00:00:00');
END;
ASSERT TABLE alone IS VALUES (TIMESTAMP '2226-01-02 00:00:00', 1);
