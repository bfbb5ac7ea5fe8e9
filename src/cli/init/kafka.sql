-- Counts the words of a topic, and prints each count whenever it changes.
--
--   highwater run {file}                     # until Ctrl-C
--   highwater sql {file}                     # look at the topic: SELECT * FROM messages LIMIT 5;
--
-- No broker at hand? `highwater broker` is one for development.

SET 'pipeline.name' = '{name}';

-- 'raw' takes each record as it is. For JSON or CSV name the columns and say 'format' = 'json' or 'csv'.
CREATE TABLE messages (message STRING) WITH (
  'connector' = 'kafka',
  'topic' = {topic},
  'properties.bootstrap.servers' = {bootstrap},
  'scan.startup.mode' = 'earliest-offset',
  'format' = 'raw'
);

-- The newest line of a word is its count: +I is a new word, -U and +U are a count that changes. Give the table a
-- 'connector' = 'kafka' and a PRIMARY KEY (word) NOT ENFORCED, and a topic has the newest count of each word.
CREATE TABLE counts (word STRING, n BIGINT) WITH ('connector' = 'print');

INSERT INTO counts
SELECT word, count(*)
FROM (SELECT unnest(split_words(lower(message))) AS word FROM messages)
GROUP BY word;
