-- Nexmark q5, hot items: the auctions with the most bids in the last 10 seconds, told every 2 seconds.
--
-- The bids are counted once; each window's counts are joined with the greatest of them.
--
--   highwater run pipelines/nexmark/q5.sql

SET 'pipeline.name' = 'nexmark_q5';

CREATE TABLE bid (
  auction BIGINT,
  bidder BIGINT,
  price BIGINT,
  channel STRING,
  url STRING,
  date_time TIMESTAMP(3),
  extra STRING,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
) WITH ('connector' = 'nexmark', 'events.num' = '300000');

CREATE TABLE results (
  auction BIGINT,
  num BIGINT
) WITH ('connector' = 'print');

CREATE VIEW counts AS
SELECT window_start, window_end, auction, count(*) AS num
FROM TABLE(HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2' SECOND, INTERVAL '10' SECOND))
GROUP BY window_start, window_end, auction;

INSERT INTO results
SELECT c.auction, c.num
FROM counts AS c
JOIN (
  SELECT window_start, window_end, max(num) AS most
  FROM counts
  GROUP BY window_start, window_end
) AS m
ON c.window_start = m.window_start AND c.window_end = m.window_end AND c.num = m.most;
