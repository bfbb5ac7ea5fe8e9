-- Counts the words of the topic `lines` into the topic `counts`, which holds the newest count of each word.

SET 'pipeline.name' = 'demo_count';

CREATE TABLE lines (line STRING) WITH (
  'connector' = 'kafka',
  'topic' = 'lines',
  'properties.bootstrap.servers' = '127.0.0.1:9092',
  'scan.startup.mode' = 'earliest-offset',
  'scan.bounded.mode' = 'latest-offset',  -- without this line it never ends
  'format' = 'raw'
);

CREATE TABLE counts (word STRING, n BIGINT, PRIMARY KEY (word) NOT ENFORCED) WITH (
  'connector' = 'kafka',
  'topic' = 'counts',
  'properties.bootstrap.servers' = '127.0.0.1:9092',
  'format' = 'json'
);

CREATE VIEW words AS
SELECT unnest(split_words(regexp_replace(lower(line), '[^a-z]+', ' ', 'g'))) AS word FROM lines;

INSERT INTO counts SELECT word, count(*) AS n FROM words GROUP BY word;
