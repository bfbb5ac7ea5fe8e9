-- Changes of a table with a key and of one without, and of a view.

SET 'idle_timeout' = 'off';
CREATE TABLE t (k STRING, n BIGINT) WITH ('connector' = 'memory');
CREATE TABLE keyed (k STRING, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'memory');
CREATE TABLE printed (k STRING, n BIGINT) WITH ('connector' = 'print');
CREATE VIEW sums AS SELECT k, sum(n) AS n FROM t GROUP BY k;
BEGIN STATEMENT SET;
INSERT INTO keyed SELECT * FROM sums;
INSERT INTO printed SELECT * FROM sums;
END;
SELECT count(*) AS n FROM t;

INSERT INTO t VALUES ('a', 1), ('b', 2);
INSERT INTO t VALUES ('a', 3);
ASSERT CHANGELOG OF keyed IS VALUES ('+I', 'a', 4), ('+I', 'b', 2);
ASSERT CHANGELOG OF printed IS VALUES (+1, 'a', 4), (+1, 'b', 2);
ASSERT CHANGELOG OF "print" IS VALUES (1, 3);

INSERT INTO t VALUES ('a', 1);
TICK;
INSERT INTO t VALUES ('a', 1), ('b', 0);
TICK;
ASSERT CHANGELOG OF keyed IS VALUES ('-U', 'a', 4), ('+U', 'a', 5), ('-U', 'a', 5), ('+U', 'a', 6);
ASSERT CHANGELOG OF keyed IS EMPTY;
ASSERT CHANGELOG OF sums (n) IS VALUES
  (+1, 4), (+1, 2), (-1, 4), (+1, 5), (-1, 5), (+1, 6);
ASSERT CHANGELOG OF "print" IS VALUES (-1, 3), (+1, 4), (-1, 4), (+1, 6);
ASSERT VIEW sums IS VALUES ('a', 6), ('b', 2);
ASSERT TABLE printed IS SELECT * FROM sums;
