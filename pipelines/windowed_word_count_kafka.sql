-- Counts the words of a topic of JSON messages in ten-second windows of event time, into another topic.
--
--   highwater run pipelines/windowed_word_count_kafka.sql --workers 2
--
-- A message looks like {"text": "the high water mark", "sent": "2026-01-01T12:00:00.250Z"}.

SET 'pipeline.name' = 'windowed_word_count_kafka';

CREATE TABLE messages (
  text STRING,
  sent TIMESTAMP(3),
  WATERMARK FOR sent AS sent - INTERVAL '5' SECOND
) WITH (
  'connector' = 'kafka',
  'topic' = 'messages',
  'properties.bootstrap.servers' = '127.0.0.1:9092',
  'scan.startup.mode' = 'earliest-offset',
  'format' = 'json'
);

CREATE TABLE counts (window_start TIMESTAMP(3), window_end TIMESTAMP(3), word STRING, n BIGINT) WITH (
  'connector' = 'kafka',
  'topic' = 'windowed_counts',
  'properties.bootstrap.servers' = '127.0.0.1:9092',
  'key.fields' = 'word',
  'format' = 'json'
);

INSERT INTO counts
SELECT window_start, window_end, word, count(*) AS n
FROM (
  SELECT window_start, window_end, unnest(split_words(lower(text))) AS word
  FROM TABLE(TUMBLE(TABLE messages, DESCRIPTOR(sent), INTERVAL '10' SECOND))
)
GROUP BY window_start, window_end, word;
