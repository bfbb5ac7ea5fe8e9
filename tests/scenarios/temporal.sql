-- Rows with the version of their key at their time: all versions of a table, those of a stream of changes, those of a view.

SET 'idle_timeout' = 'off';
CREATE TABLE sales (id BIGINT, currency STRING, sold TIMESTAMP(3), WATERMARK FOR sold AS sold - INTERVAL '1' HOUR) WITH ('connector' = 'memory');
CREATE TABLE rates (currency STRING, rate BIGINT, updated TIMESTAMP(3), WATERMARK FOR updated AS updated - INTERVAL '1' HOUR,
  PRIMARY KEY (currency) NOT ENFORCED) WITH ('connector' = 'kafka', 'topic' = 'rates', 'properties.bootstrap.servers' = 'embedded',
  'format' = 'json', 'scan.changelog' = 'upsert');
CREATE VIEW high AS SELECT currency, rate, updated FROM rates WHERE rate > 10;
CREATE TABLE out (id BIGINT, rate BIGINT) WITH ('connector' = 'memory');
CREATE TABLE above (id BIGINT, rate BIGINT) WITH ('connector' = 'memory');
CREATE TABLE sums (currency STRING, rate BIGINT, n BIGINT) WITH ('connector' = 'memory');
INSERT INTO out SELECT s.id, r.rate FROM sales AS s LEFT JOIN rates FOR SYSTEM_TIME AS OF s.sold AS r ON s.currency = r.currency;
INSERT INTO above SELECT s.id, h.rate FROM sales AS s JOIN high FOR SYSTEM_TIME AS OF s.sold AS h ON s.currency = h.currency;
INSERT INTO sums SELECT currency, min(rate), count(*) FROM TUMBLE((SELECT s.currency, s.sold, r.rate FROM sales AS s
  JOIN rates FOR SYSTEM_TIME AS OF s.sold AS r ON s.currency = r.currency), DESCRIPTOR(sold), INTERVAL '1' MINUTE)
  GROUP BY window_start, window_end, currency;

TEST 'no version is lost that is replaced in its own epoch';

INSERT INTO rates VALUES ('EUR', 11, TIMESTAMP '2026-01-01 10:00:00'), ('EUR', 12, TIMESTAMP '2026-01-01 10:00:10'),
  ('EUR', 7, TIMESTAMP '2026-01-01 10:00:20'), ('USD', 20, TIMESTAMP '2026-01-01 10:00:00');
INSERT INTO sales VALUES (1, 'EUR', TIMESTAMP '2026-01-01 10:00:09'), (2, 'EUR', TIMESTAMP '2026-01-01 10:00:10'),
  (3, 'EUR', TIMESTAMP '2026-01-01 10:00:30'), (4, 'GBP', TIMESTAMP '2026-01-01 10:00:00'), (5, 'USD', TIMESTAMP '2026-01-01 10:00:30');
ASSERT TABLE out IS EMPTY;

ADVANCE WATERMARK OF rates TO TIMESTAMP '2026-01-01 10:05:00';
ASSERT TABLE out IS EMPTY;

ADVANCE WATERMARK OF sales TO TIMESTAMP '2026-01-01 10:00:30';
ASSERT TABLE out IS VALUES (1, 11), (2, 12), (4, CAST(NULL AS BIGINT));
ASSERT TABLE above IS VALUES (1, 11), (2, 12);

ADVANCE WATERMARK OF sales TO TIMESTAMP '2026-01-01 10:01:00';
ASSERT TABLE out IS VALUES (1, 11), (2, 12), (3, 7), (4, CAST(NULL AS BIGINT)), (5, 20);
-- the view has no version of EUR since 7 is none of its rows
ASSERT TABLE above IS VALUES (1, 11), (2, 12), (5, 20);
ASSERT TABLE sums IS VALUES ('EUR', 7, 3), ('USD', 20, 1);

TEST 'a version that a view leaves out hides the one before it, and late rows are left out';

INSERT INTO rates VALUES ('EUR', 11, TIMESTAMP '2026-01-01 10:00:00');
ADVANCE WATERMARK TO TIMESTAMP '2026-01-01 10:01:00';
INSERT INTO rates VALUES ('EUR', 5, TIMESTAMP '2026-01-01 10:01:30');
INSERT INTO sales VALUES (1, 'EUR', TIMESTAMP '2026-01-01 10:01:59'), (2, 'EUR', TIMESTAMP '2026-01-01 10:02:00'),
  (3, 'EUR', TIMESTAMP '2026-01-01 10:00:59');
ADVANCE WATERMARK TO TIMESTAMP '2026-01-01 10:02:00';
ADVANCE WATERMARK TO TIMESTAMP '2026-01-01 10:03:00';
ASSERT TABLE out IS VALUES (1, 5), (2, 5);
ASSERT TABLE above IS EMPTY;
INSERT INTO rates VALUES ('EUR', 12, TIMESTAMP '2026-01-01 10:02:30');
INSERT INTO sales VALUES (4, 'EUR', TIMESTAMP '2026-01-01 10:03:00');
END;
ASSERT TABLE out IS VALUES (1, 5), (2, 5), (4, 12);
ASSERT TABLE above IS VALUES (4, 12);
