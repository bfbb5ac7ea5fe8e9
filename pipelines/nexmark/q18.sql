-- Nexmark q18, find last bid: the last bid of each bidder on each auction.
--
-- Deduplication: the newest row of a key counts, and takes back the one before.
--
--   highwater run pipelines/nexmark/q18.sql

SET 'pipeline.name' = 'nexmark_q18';

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
  bidder BIGINT,
  price BIGINT,
  channel STRING,
  date_time TIMESTAMP(3)
) WITH ('connector' = 'print');

INSERT INTO results
SELECT auction, bidder, price, channel, date_time
FROM (
  SELECT *, row_number() OVER (
      PARTITION BY bidder, auction ORDER BY date_time DESC, price DESC, channel, url, extra) AS place
  FROM bid
) AS bids
WHERE place <= 1;
