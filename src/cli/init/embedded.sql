-- Counts the words of a topic, and prints each count whenever it changes.
--
--   highwater run {file}                     # until Ctrl-C
--
-- It runs as it is: 'embedded' is a broker for development that lives inside the run, and the last part fills the topic.
-- For your own topic: `highwater init NAME --kafka HOST:PORT --topic TOPIC`.

SET 'pipeline.name' = '{name}';

-- 'raw' takes each record as it is. For JSON or CSV name the columns and say 'format' = 'json' or 'csv'.
CREATE TABLE messages (message STRING) WITH (
  'connector' = 'kafka',
  'topic' = {topic},
  'properties.bootstrap.servers' = 'embedded',
  'format' = 'raw'
);

-- The newest line of a word is its count: +I is a new word, -U and +U are a count that changes. Give the table a
-- 'connector' = 'kafka' and a PRIMARY KEY (word) NOT ENFORCED, and a topic has the newest count of each word.
CREATE TABLE counts (word STRING, n BIGINT) WITH ('connector' = 'print');

INSERT INTO counts
SELECT word, count(*)
FROM (SELECT unnest(split_words(lower(message))) AS word FROM messages)
GROUP BY word;

-- A hundred messages of made-up words. Away with it once somebody else writes the topic.
CREATE TABLE example (message STRING) WITH (
  'connector' = 'datagen',
  'rows-per-second' = '20',
  'number-of-rows' = '100',
  'fields.message.kind' = 'words',
  'fields.message.vocabulary' = '12'
);

INSERT INTO messages SELECT message FROM example;
