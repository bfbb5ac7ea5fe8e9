-- Orders with the payment of the same five minutes: a window's pairs leave when both streams have passed its end.

USE PIPELINE '../enrich.sql';

TEST 'a window waits for both streams';

INSERT INTO orders VALUES
  (1, 'ann', TIMESTAMP '2026-01-01 00:00:00'),
  (2, 'bob', TIMESTAMP '2026-01-01 00:04:59'),
  (3, 'cy', TIMESTAMP '2026-01-01 00:05:00');
INSERT INTO payments VALUES
  (1, 100, TIMESTAMP '2026-01-01 00:01:00'),
  (2, 200, TIMESTAMP '2026-01-01 00:05:00'),
  (7, 700, TIMESTAMP '2026-01-01 00:02:00');
ADVANCE WATERMARK OF orders TO TIMESTAMP '2026-01-01 00:10:00';
ASSERT CHANGELOG OF enriched IS EMPTY;

-- a payment of the first window still comes in time; that of the second order lies in the next one
ADVANCE WATERMARK OF payments TO TIMESTAMP '2026-01-01 00:05:00';
ASSERT CHANGELOG OF enriched IS VALUES
  (TIMESTAMP '2026-01-01 00:00:00', 1, 'ann', 100, TIMESTAMP '2026-01-01 00:01:00'),
  (TIMESTAMP '2026-01-01 00:00:00', 2, 'bob', NULL, NULL);

END;
ASSERT CHANGELOG OF enriched IS VALUES (TIMESTAMP '2026-01-01 00:05:00', 3, 'cy', NULL, NULL);

TEST 'a stream that has ended is not waited for';

INSERT INTO orders VALUES (1, 'ann', TIMESTAMP '2026-01-01 00:00:00');
END OF payments;
ASSERT TABLE enriched IS EMPTY;
ADVANCE WATERMARK TO TIMESTAMP '2026-01-01 00:05:00';
ASSERT TABLE enriched (id, amount) IS VALUES (1, NULL);
