-- Nexmark q7, highest bid: the bids with the highest price of each 10 seconds.
--
-- Flink's query looks for the price between two moments; here both sides have the window, so that a bid belongs to one.
--
--   highwater run pipelines/nexmark/q7.sql

SET 'pipeline.name' = 'nexmark_q7';

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
  price BIGINT,
  bidder BIGINT,
  date_time TIMESTAMP(3),
  extra STRING
) WITH ('connector' = 'print');

INSERT INTO results
SELECT b.auction, b.price, b.bidder, b.date_time, b.extra
FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(date_time), INTERVAL '10' SECOND)) AS b
JOIN (
  SELECT window_start, window_end, max(price) AS price
  FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(date_time), INTERVAL '10' SECOND))
  GROUP BY window_start, window_end
) AS highest
ON b.window_start = highest.window_start AND b.window_end = highest.window_end AND b.price = highest.price;
