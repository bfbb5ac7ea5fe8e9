-- Readings that cannot be used become rows of a table of their own, and the averages go on without them.

USE PIPELINE '../dead_letters.sql';

INSERT INTO readings VALUES
  ('attic', 20.5, TIMESTAMP '2026-01-01 10:00:00'),
  ('attic', 21.25, TIMESTAMP '2026-01-01 10:00:30'),
  ('attic', 99, NULL),
  ('cellar', 8, TIMESTAMP '2026-01-01 10:00:59.999');
ASSERT TABLE broken (reason, place) IS VALUES ('the event time "measured" is NULL', 'row 3');

ADVANCE WATERMARK TO TIMESTAMP '2026-01-01 10:01:00';
ASSERT TABLE averages IS VALUES
  (TIMESTAMP '2026-01-01 10:00:00', 'attic', 20.9),
  (TIMESTAMP '2026-01-01 10:00:00', 'cellar', 8);
