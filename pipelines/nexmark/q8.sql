-- Nexmark q8, new users: persons who came and put something up for sale in the same 10 seconds.
--
--   highwater run pipelines/nexmark/q8.sql

SET 'pipeline.name' = 'nexmark_q8';

CREATE TABLE person (
  id BIGINT,
  name STRING,
  email_address STRING,
  credit_card STRING,
  city STRING,
  state STRING,
  date_time TIMESTAMP(3),
  extra STRING,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
) WITH ('connector' = 'nexmark', 'events.num' = '300000');

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

CREATE TABLE results (
  id BIGINT,
  name STRING,
  start_time TIMESTAMP(3)
) WITH ('connector' = 'print');

INSERT INTO results
SELECT p.id, p.name, p.window_start
FROM (
  SELECT window_start, window_end, id, name
  FROM TABLE(TUMBLE(TABLE person, DESCRIPTOR(date_time), INTERVAL '10' SECOND))
  GROUP BY window_start, window_end, id, name
) AS p
JOIN (
  SELECT window_start, window_end, seller
  FROM TABLE(TUMBLE(TABLE auction, DESCRIPTOR(date_time), INTERVAL '10' SECOND))
  GROUP BY window_start, window_end, seller
) AS a
ON p.window_start = a.window_start AND p.window_end = a.window_end AND p.id = a.seller;
