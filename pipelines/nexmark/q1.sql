-- Nexmark q1, currency conversion: the price of every bid in euros instead of dollars.
--
--   highwater run pipelines/nexmark/q1.sql

SET 'pipeline.name' = 'nexmark_q1';

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
  price DECIMAL(23, 3),
  date_time TIMESTAMP(3),
  extra STRING
) WITH ('connector' = 'print');

INSERT INTO results
SELECT auction, bidder, 0.908 * price AS price, date_time, extra FROM bid;
