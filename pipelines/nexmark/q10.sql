-- Nexmark q10, log to files: every bid, in a directory for each day and minute: bids/dt=2026-01-01/hm=10%3A00/part-0-0.csv.
--
--   highwater run pipelines/nexmark/q10.sql

SET 'pipeline.name' = 'nexmark_q10';

CREATE TABLE bid (
  auction BIGINT,
  bidder BIGINT,
  price BIGINT,
  channel STRING,
  url STRING,
  date_time TIMESTAMP(3),
  extra STRING,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
) WITH ('connector' = 'nexmark', 'events.num' = '500');

CREATE TABLE results (
  auction BIGINT,
  bidder BIGINT,
  price BIGINT,
  date_time TIMESTAMP(3),
  extra STRING,
  dt STRING,
  hm STRING
) PARTITIONED BY (dt, hm) WITH (
  'connector' = 'file',
  'path' = 'bids/',
  'format' = 'csv',
  'sink.rolling.interval' = '1 min'
);

INSERT INTO results
SELECT
  auction,
  bidder,
  price,
  date_time,
  extra,
  to_char(date_time, '%Y-%m-%d') AS dt,
  to_char(date_time, '%H:%M') AS hm
FROM bid;
