-- Nexmark q13, a bounded side input: each bid with what a table says of its auction.
--
-- The standard looks the table up at the time at which a bid is processed. Here the table is read to its end first, and the bids wait
-- for that, so the answer is always the same.
--
--   highwater run pipelines/nexmark/q13.sql

SET 'pipeline.name' = 'nexmark_q13';

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

CREATE TABLE side_input (
  key BIGINT,
  "value" AS CAST(key AS STRING)
) WITH (
  'connector' = 'datagen',
  'fields.key.kind' = 'sequence',
  'fields.key.start' = '0',
  'fields.key.end' = '9999'
);

CREATE TABLE results (
  auction BIGINT,
  bidder BIGINT,
  price BIGINT,
  date_time TIMESTAMP(3),
  "value" STRING
) WITH ('connector' = 'print');

INSERT INTO results
SELECT b.auction, b.bidder, b.price, b.date_time, s."value"
FROM bid AS b JOIN side_input AS s ON b.auction % 10000 = s.key;
