-- Nexmark q11, user sessions: how often each bidder bids until 10 seconds pass without a bid.
--
-- At the standard's 10,000 events a second a person is gone for good after 5 seconds; at 1,000 some come back.
--
--   highwater run pipelines/nexmark/q11.sql

SET 'pipeline.name' = 'nexmark_q11';

CREATE TABLE bid (
  auction BIGINT,
  bidder BIGINT,
  price BIGINT,
  channel STRING,
  url STRING,
  date_time TIMESTAMP(3),
  extra STRING,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
) WITH ('connector' = 'nexmark', 'events.num' = '50000', 'first-event.rate' = '1000');

CREATE TABLE results (
  bidder BIGINT,
  bid_count BIGINT,
  start_time TIMESTAMP(3),
  end_time TIMESTAMP(3)
) WITH ('connector' = 'print');

INSERT INTO results
SELECT bidder, count(*) AS bid_count, window_start, window_end
FROM TABLE(SESSION(TABLE bid PARTITION BY bidder, DESCRIPTOR(date_time), INTERVAL '10' SECOND))
GROUP BY bidder, window_start, window_end;
