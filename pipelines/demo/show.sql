-- Prints the newest count of each word in the topic `counts`. A count only grows, so the newest is the largest.

SET 'pipeline.name' = 'demo_show';

CREATE TABLE counts (word STRING, n BIGINT) WITH (
  'connector' = 'kafka',
  'topic' = 'counts',
  'properties.bootstrap.servers' = '127.0.0.1:9092',
  'scan.startup.mode' = 'earliest-offset',
  'scan.bounded.mode' = 'latest-offset',
  'format' = 'json'
);

CREATE TABLE screen (word STRING, n BIGINT) WITH ('connector' = 'print');

INSERT INTO screen SELECT word, max(n) AS n FROM counts GROUP BY word EMIT FINAL;
