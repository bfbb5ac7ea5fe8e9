-- Nexmark q14, calculation: bids of a middle price, the time of day that they came at, and the letters c in them.
--
-- Where Flink's query calls a function written in Java for the letters, here a regular expression counts them.
--
--   highwater run pipelines/nexmark/q14.sql

SET 'pipeline.name' = 'nexmark_q14';

CREATE TABLE bid (
  auction BIGINT,
  bidder BIGINT,
  price BIGINT,
  channel STRING,
  url STRING,
  date_time TIMESTAMP(3),
  extra STRING,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
) WITH ('connector' = 'nexmark', 'events.num' = '1500',
  'base-time' = '2015-07-15T06:50:00Z', 'first-event.rate' = '1');

CREATE TABLE results (
  auction BIGINT,
  bidder BIGINT,
  price DECIMAL(23, 3),
  bid_time_type STRING,
  date_time TIMESTAMP(3),
  extra STRING,
  c_counts BIGINT
) WITH ('connector' = 'print');

INSERT INTO results
SELECT
  auction,
  bidder,
  0.908 * price AS price,
  CASE
    WHEN EXTRACT(HOUR FROM date_time) >= 8 AND EXTRACT(HOUR FROM date_time) <= 18 THEN 'dayTime'
    WHEN EXTRACT(HOUR FROM date_time) <= 6 OR EXTRACT(HOUR FROM date_time) >= 20 THEN 'nightTime'
    ELSE 'otherTime'
  END AS bid_time_type,
  date_time,
  extra,
  regexp_count(extra, 'c') AS c_counts
FROM bid
WHERE 0.908 * price > 1000000 AND 0.908 * price < 50000000;
