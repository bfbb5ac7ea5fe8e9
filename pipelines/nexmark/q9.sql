-- Nexmark q9, winning bids: of each auction the highest bid so far, the earliest of equal ones.
--
-- The first row of each key of a join; a higher bid takes the one before back.
--
--   highwater run pipelines/nexmark/q9.sql

SET 'pipeline.name' = 'nexmark_q9';

CREATE TABLE auction (
  id BIGINT,
  item_name STRING,
  description STRING,
  initial_bid BIGINT,
  reserve BIGINT,
  date_time TIMESTAMP(3),
  expires TIMESTAMP(3),
  seller BIGINT,
  category BIGINT,
  extra STRING,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
) WITH ('connector' = 'nexmark', 'events.num' = '300000');

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
  id BIGINT,
  item_name STRING,
  seller BIGINT,
  expires TIMESTAMP(3),
  bidder BIGINT,
  price BIGINT,
  bid_time TIMESTAMP(3)
) WITH ('connector' = 'print');

INSERT INTO results
SELECT id, item_name, seller, expires, bidder, price, bid_time
FROM (
  SELECT a.id, a.item_name, a.seller, a.expires, b.bidder, b.price, b.date_time AS bid_time, row_number() OVER (
      PARTITION BY a.id ORDER BY b.price DESC, b.date_time, b.bidder) AS place
  FROM auction AS a JOIN bid AS b ON a.id = b.auction
  WHERE b.date_time BETWEEN a.date_time AND a.expires
) AS bids
WHERE place = 1;
