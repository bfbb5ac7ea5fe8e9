-- Nexmark q2, selection: bids for some auctions, one in 123.
--
--   highwater run pipelines/nexmark/q2.sql

SET 'pipeline.name' = 'nexmark_q2';

CREATE TABLE bid (
  auction BIGINT,
  bidder BIGINT,
  price BIGINT,
  channel STRING,
  url STRING,
  date_time TIMESTAMP(3),
  extra STRING,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
) WITH ('connector' = 'nexmark', 'events.num' = '20000');

CREATE TABLE results (
  auction BIGINT,
  price BIGINT
) WITH ('connector' = 'print');

INSERT INTO results
SELECT auction, price FROM bid WHERE auction % 123 = 0;
