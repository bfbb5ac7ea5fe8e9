-- What a record has: computed columns, metadata, NOT NULL, nested types.

CREATE TABLE t (
  id BIGINT NOT NULL,
  tags ARRAY<STRING>,
  price DECIMAL(8, 2),
  doubled AS price * 2,
  place BIGINT METADATA FROM 'offset' VIRTUAL,
  came TIMESTAMP(3) METADATA FROM 'timestamp'
) WITH (
  'connector' = 'kafka', 'topic' = 'nowhere', 'properties.bootstrap.servers' = '127.0.0.1:1', 'format' = 'json'
);
CREATE TABLE out (id BIGINT, tag STRING, doubled DECIMAL(12, 2), place BIGINT, came TIMESTAMP(3)) WITH ('connector' = 'memory');
INSERT INTO out SELECT id, unnest(tags), doubled, place, came FROM t;

TEST 'columns go by position, but for VIRTUAL ones';

INSERT INTO t VALUES (1, ['a', 'b'], 1.5, TIMESTAMP '2026-01-01 00:00:00');
ASSERT TABLE out IS VALUES
  (1, 'a', 3, NULL, TIMESTAMP '2026-01-01 00:00:00'),
  (1, 'b', 3, NULL, TIMESTAMP '2026-01-01 00:00:00');

TEST 'or by name, and the others are NULL';

INSERT INTO t (place, id, tags) VALUES (42, 7, ['x']);
ASSERT CHANGELOG OF out IS VALUES (7, 'x', NULL, 42, NULL);
ASSERT CHANGELOG OF out (place) IS EMPTY;
ASSERT TABLE out (place, id) IS VALUES (42, 7);

TEST 'texts are read as what they should be';

INSERT INTO t (id, tags, price, came) VALUES ('8', ['it''s'], '0.25', '2026-01-01 00:00:00.5');
ASSERT TABLE out (tag, doubled, came) IS VALUES ('it''s', 0.5, '2026-01-01 00:00:00.500');
