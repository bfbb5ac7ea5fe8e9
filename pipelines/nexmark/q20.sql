-- Nexmark q20, expand bid with auction: each bid on an auction of category 10, with the auction.
--
-- Bids may come before their auction: they wait in the join for it.
--
--   highwater run pipelines/nexmark/q20.sql

SET 'pipeline.name' = 'nexmark_q20';

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
  auction BIGINT,
  bidder BIGINT,
  price BIGINT,
  channel STRING,
  bid_time TIMESTAMP(3),
  item_name STRING,
  initial_bid BIGINT,
  expires TIMESTAMP(3),
  seller BIGINT
) WITH ('connector' = 'print');

INSERT INTO results
SELECT b.auction, b.bidder, b.price, b.channel, b.date_time AS bid_time, a.item_name, a.initial_bid, a.expires, a.seller
FROM bid AS b JOIN auction AS a ON b.auction = a.id
WHERE a.category = 10;
