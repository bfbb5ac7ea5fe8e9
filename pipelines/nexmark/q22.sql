-- Nexmark q22, parts of an address: the three directories of each bid's url.
--
--   highwater run pipelines/nexmark/q22.sql

SET 'pipeline.name' = 'nexmark_q22';

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
  channel STRING,
  dir1 STRING,
  dir2 STRING,
  dir3 STRING
) WITH ('connector' = 'print');

INSERT INTO results
SELECT
  auction,
  bidder,
  price,
  channel,
  split_index(url, '/', 3) AS dir1,
  split_index(url, '/', 4) AS dir2,
  split_index(url, '/', 5) AS dir3
FROM bid;
