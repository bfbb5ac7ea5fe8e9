-- Nexmark q12, windows of a bidder: how often each one bids in 10 seconds.
--
-- The standard has windows of the time at which a bid is processed. That is no function of the bids: another run would answer
-- otherwise. Here they are windows of event time, which ask the same of the engine and always answer the same.
--
--   highwater run pipelines/nexmark/q12.sql

SET 'pipeline.name' = 'nexmark_q12';

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
  bidder BIGINT,
  bid_count BIGINT,
  start_time TIMESTAMP(3),
  end_time TIMESTAMP(3)
) WITH ('connector' = 'print');

INSERT INTO results
SELECT bidder, count(*) AS bid_count, window_start, window_end
FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(date_time), INTERVAL '10' SECOND))
GROUP BY bidder, window_start, window_end;
