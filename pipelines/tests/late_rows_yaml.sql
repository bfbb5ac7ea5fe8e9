-- As an operator graph: what comes too late for its windows goes to a table of its own.

USE PIPELINE '../late_rows.yaml';

INSERT INTO messages VALUES ('one', TIMESTAMP '2026-01-01 00:00:00');
ADVANCE WATERMARK TO TIMESTAMP '2026-01-01 00:00:11.999';
ASSERT TABLE counts IS EMPTY;

-- its window is still open
INSERT INTO messages VALUES ('two', TIMESTAMP '2026-01-01 00:00:01');
ADVANCE WATERMARK TO TIMESTAMP '2026-01-01 00:00:12';
ASSERT TABLE counts IS VALUES (TIMESTAMP '2026-01-01 00:00:00', 2);

INSERT INTO messages VALUES ('three', TIMESTAMP '2026-01-01 00:00:01'), ('four', TIMESTAMP '2026-01-01 00:00:02');
ASSERT TABLE too_late IS VALUES (
  TIMESTAMP '2026-01-01 00:00:01', 'three', TIMESTAMP '2026-01-01 00:00:02', TIMESTAMP '2026-01-01 00:00:02',
  'all its windows have closed', 'row 3'
);

END;
ASSERT TABLE counts IS VALUES (TIMESTAMP '2026-01-01 00:00:00', 2), (TIMESTAMP '2026-01-01 00:00:02', 1);
