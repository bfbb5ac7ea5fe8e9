-- New users who sell at once: a person and an auction of theirs in the same ten seconds.

USE PIPELINE '../nexmark/q8.sql';

INSERT INTO person (id, name, date_time) VALUES
  (1, 'ann', TIMESTAMP '2026-01-01 00:00:01'),
  (2, 'bob', TIMESTAMP '2026-01-01 00:00:09.999'),
  (3, 'cy', TIMESTAMP '2026-01-01 00:00:10');
-- two auctions are one answer; that of bob comes too late
INSERT INTO auction (seller, date_time) VALUES
  (1, TIMESTAMP '2026-01-01 00:00:00'), (1, TIMESTAMP '2026-01-01 00:00:02'),
  (2, TIMESTAMP '2026-01-01 00:00:10'), (3, TIMESTAMP '2026-01-01 00:00:19');
ASSERT TABLE results IS EMPTY;

ADVANCE WATERMARK TO TIMESTAMP '2026-01-01 00:00:10';
ASSERT CHANGELOG OF results IS VALUES (1, 'ann', TIMESTAMP '2026-01-01 00:00:00');

END;
ASSERT CHANGELOG OF results IS VALUES (3, 'cy', TIMESTAMP '2026-01-01 00:00:10');
