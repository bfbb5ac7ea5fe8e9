-- The three most frequent words of each minute: rows of a window are numbered, and the first of them are kept.
--
--   highwater run pipelines/top_words.sql
--
-- A window's rows leave when it closes, in one answer that stands: ORDER BY … LIMIT for a stream. Words that are equally
-- frequent are told apart by themselves, so every run on any number of workers prints the same.

SET 'pipeline.name' = 'top_words';

CREATE TABLE messages (
  text STRING,
  sent TIMESTAMP(3),
  WATERMARK FOR sent AS sent - INTERVAL '30' SECOND
) WITH (
  'connector' = 'datagen',
  'number-of-rows' = '20000',
  'seed' = '7',
  'fields.text.kind' = 'words',
  'fields.text.vocabulary' = '500',
  'fields.text.words' = '8',
  'fields.sent.kind' = 'time',
  'fields.sent.start' = '2026-01-01T00:00:00Z',
  'fields.sent.step' = '50 ms',
  'fields.sent.disorder' = '20 s'
);

CREATE TABLE top_words (window_start TIMESTAMP(3), place BIGINT, word STRING, n BIGINT) WITH ('connector' = 'print');

INSERT INTO top_words
SELECT window_start, place, word, n
FROM (
  SELECT
    window_start, window_end, word, count(*) AS n,
    row_number() OVER (PARTITION BY window_start, window_end ORDER BY count(*) DESC) AS place
  FROM (
    SELECT window_start, window_end, unnest(split_words(text)) AS word
    FROM TABLE(TUMBLE(TABLE messages, DESCRIPTOR(sent), INTERVAL '1' MINUTE))
  )
  GROUP BY window_start, window_end, word
)
WHERE place <= 3;
