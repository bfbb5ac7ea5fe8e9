-- Nexmark q0, pass through: every bid as it is. What reading, moving and writing rows costs by itself.
--
--   highwater run pipelines/nexmark/q0.sql

SET 'pipeline.name' = 'nexmark_q0';

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
  extra STRING
) WITH ('connector' = 'print');

INSERT INTO results
SELECT auction, bidder, price, date_time, extra FROM bid;
