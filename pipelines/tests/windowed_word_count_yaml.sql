-- As an operator graph: a window's counts leave when the watermark has passed its end.

USE PIPELINE '../windowed_word_count.yaml';

TEST 'a window closes when the watermark reaches its end';

INSERT INTO messages VALUES
  ('to be', TIMESTAMP '2026-01-01 10:00:05'),
  ('or not to be', TIMESTAMP '2026-01-01 10:00:59.999'),
  ('next', TIMESTAMP '2026-01-01 10:01:29.999');
ASSERT CHANGELOG OF counts IS EMPTY;

INSERT INTO messages VALUES ('to', TIMESTAMP '2026-01-01 10:00:30'), ('next', TIMESTAMP '2026-01-01 10:01:30');
ASSERT CHANGELOG OF counts IS VALUES
  (TIMESTAMP '2026-01-01 10:00:00', 'to', 3),
  (TIMESTAMP '2026-01-01 10:00:00', 'be', 2),
  (TIMESTAMP '2026-01-01 10:00:00', 'or', 1),
  (TIMESTAMP '2026-01-01 10:00:00', 'not', 1);

TEST 'what comes later is dropped';

INSERT INTO messages VALUES ('in time', TIMESTAMP '2026-01-01 10:00:05');
ADVANCE WATERMARK OF messages TO TIMESTAMP '2026-01-01 10:01:00';
ASSERT CHANGELOG OF counts (word, n) IS VALUES ('in', 1), ('time', 1);

INSERT INTO messages VALUES ('too late', TIMESTAMP '2026-01-01 10:00:06'), ('not yet', TIMESTAMP '2026-01-01 10:01:00');
ADVANCE WATERMARK BY INTERVAL '1' MINUTE;
ASSERT CHANGELOG OF counts (word, n) IS VALUES ('not', 1), ('yet', 1);

TEST 'the end closes all windows';

INSERT INTO messages VALUES ('a', TIMESTAMP '2026-01-01 10:00:00'), ('b', TIMESTAMP '2026-01-01 11:00:00');
END;
ASSERT TABLE counts IS VALUES
  (TIMESTAMP '2026-01-01 10:00:00', 'a', 1),
  (TIMESTAMP '2026-01-01 11:00:00', 'b', 1);
