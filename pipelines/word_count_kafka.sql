-- Counts the words of a topic and keeps the newest count of each word in another topic, keyed by the word.
--
--   highwater run pipelines/word_count_kafka.sql --workers 2
--
-- The input does not end: at the end of each epoch the counts that changed are written. A reader that keeps the
-- newest record of each key (a compacted topic does) has the counts over all input so far.

SET 'pipeline.name' = 'word_count_kafka';

CREATE TABLE lines (line STRING) WITH (
  'connector' = 'kafka',
  'topic' = 'lines',
  'properties.bootstrap.servers' = '127.0.0.1:9092',
  'scan.startup.mode' = 'earliest-offset',
  'format' = 'raw'
);

CREATE TABLE counts (word STRING, n BIGINT, PRIMARY KEY (word) NOT ENFORCED) WITH (
  'connector' = 'kafka',
  'topic' = 'counts',
  'properties.bootstrap.servers' = '127.0.0.1:9092',
  'format' = 'json'
);

INSERT INTO counts
SELECT word, count(*) AS n
FROM (SELECT unnest(split_words(lower(line))) AS word FROM lines)
GROUP BY word;
