-- Pipelines that fail.

CREATE TABLE t (n BIGINT, d BIGINT) WITH ('connector' = 'memory');
CREATE TABLE out (q BIGINT NOT NULL) WITH ('connector' = 'memory');
INSERT INTO out SELECT n / d FROM t;

TEST 'a division by zero';

INSERT INTO t VALUES (6, 3);
ASSERT TABLE out IS VALUES (2);
INSERT INTO t VALUES (1, 0);
ASSERT ERROR LIKE '%n / d%Divide by zero%';

TEST 'a NULL where none may be';

INSERT INTO t VALUES (NULL, 1);
ASSERT ERROR LIKE '%column "q" is NOT NULL%';
