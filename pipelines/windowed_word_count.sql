-- Counts words in one-minute windows of event time: a window's counts leave when the watermark has passed its end.
--
--   highwater run pipelines/windowed_word_count.sql
--
-- The messages are out of order by up to 20 seconds. The watermark stays 30 seconds behind the newest one of each
-- split, so none is late; try INTERVAL '5' SECOND to see late rows counted.

SET 'pipeline.name' = 'windowed_word_count';

CREATE TABLE messages (
  text STRING,
  sent TIMESTAMP(3),
  WATERMARK FOR sent AS sent - INTERVAL '30' SECOND
) WITH (
  'connector' = 'datagen',
  'number-of-rows' = '20000',
  'seed' = '7',
  'fields.text.kind' = 'words',
  'fields.text.vocabulary' = '12',
  'fields.text.words' = '8',
  'fields.sent.kind' = 'time',
  'fields.sent.start' = '2026-01-01T00:00:00Z',
  'fields.sent.step' = '50 ms',
  'fields.sent.disorder' = '20 s'
);

CREATE TABLE counts (window_start TIMESTAMP(3), word STRING, n BIGINT) WITH ('connector' = 'print');

INSERT INTO counts
SELECT window_start, word, count(*) AS n
FROM (
  SELECT window_start, unnest(split_words(text)) AS word
  FROM TABLE(TUMBLE(TABLE messages, DESCRIPTOR(sent), INTERVAL '1' MINUTE))
)
GROUP BY window_start, word;
