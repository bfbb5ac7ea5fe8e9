-- Nexmark q6, average selling price by seller: the mean of the last ten auctions that each seller closed, at each of them.
--
-- A window function over the winners, which change with each higher bid. Flink leaves this query out for that reason.
--
--   highwater run pipelines/nexmark/q6.sql

SET 'pipeline.name' = 'nexmark_q6';

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
  seller BIGINT,
  id BIGINT,
  average DOUBLE
) WITH ('connector' = 'print');

INSERT INTO results
SELECT seller, id, avg(price) OVER (
    PARTITION BY seller ORDER BY expires, id ROWS BETWEEN 9 PRECEDING AND CURRENT ROW) AS average
FROM (
  SELECT a.seller, a.id, a.expires, b.price, row_number() OVER (
      PARTITION BY a.id ORDER BY b.price DESC, b.date_time, b.bidder) AS place
  FROM auction AS a JOIN bid AS b ON a.id = b.auction
  WHERE b.date_time BETWEEN a.date_time AND a.expires
) AS bids
WHERE place = 1;
