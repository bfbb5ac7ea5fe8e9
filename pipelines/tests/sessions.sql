-- Visits: a minute without a page ends one, and only those with twelve pages are told.

USE PIPELINE '../sessions.sql';

TEST 'a row between two sessions joins them';

INSERT INTO pages
VALUES
  ('ann', TIMESTAMP '2026-01-01 00:00:00'), ('ann', TIMESTAMP '2026-01-01 00:00:10'),
  ('ann', TIMESTAMP '2026-01-01 00:00:20'), ('ann', TIMESTAMP '2026-01-01 00:00:30'),
  ('ann', TIMESTAMP '2026-01-01 00:00:40'), ('ann', TIMESTAMP '2026-01-01 00:00:50'),
  ('bob', TIMESTAMP '2026-01-01 00:00:00');
-- that session would end at 00:01:50; the watermark, 15 seconds behind, is not there yet
INSERT INTO pages VALUES ('ann', TIMESTAMP '2026-01-01 00:02:00');
TICK;
INSERT INTO pages VALUES ('ann', TIMESTAMP '2026-01-01 00:01:30');
TICK;
INSERT INTO pages VALUES
  ('ann', TIMESTAMP '2026-01-01 00:02:10'), ('ann', TIMESTAMP '2026-01-01 00:02:20'),
  ('ann', TIMESTAMP '2026-01-01 00:02:30'), ('ann', TIMESTAMP '2026-01-01 00:02:40');
ADVANCE WATERMARK TO TIMESTAMP '2026-01-01 00:03:39.999';
ASSERT TABLE visits IS EMPTY;

ADVANCE WATERMARK TO TIMESTAMP '2026-01-01 00:03:40';
ASSERT TABLE visits IS VALUES ('ann', TIMESTAMP '2026-01-01 00:00:00', 160, 12);

TEST 'short visits are not told';

INSERT INTO pages VALUES ('ann', TIMESTAMP '2026-01-01 00:00:00');
END;
ASSERT TABLE visits IS EMPTY;
