-- Nexmark q19, auction top 10: the ten highest bids of each auction, numbered.
--
-- A ranking that is kept up to date: a higher bid moves those below it on.
--
--   highwater run pipelines/nexmark/q19.sql

SET 'pipeline.name' = 'nexmark_q19';

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
  date_time TIMESTAMP(3),
  place BIGINT
) WITH ('connector' = 'print');

INSERT INTO results
SELECT auction, bidder, price, date_time, place
FROM (
  SELECT *, row_number() OVER (
      PARTITION BY auction ORDER BY price DESC, date_time, bidder, channel, url, extra) AS place
  FROM bid
) AS bids
WHERE place <= 10;
