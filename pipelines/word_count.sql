-- Counts the words of text files and prints each count once, when all is read.
--
--   highwater run pipelines/word_count.sql
--   highwater run pipelines/word_count.sql --workers 2 --processes 2
--
-- EMIT FINAL keeps a run whose input ends to its last answer. Without it the changed counts would leave
-- at the end of each epoch, as an update stream.

SET 'pipeline.name' = 'word_count';

CREATE TABLE lines (line STRING) WITH (
  'connector' = 'file',
  'path' = '*.md',
  'format' = 'raw'
);

CREATE TABLE counts (word STRING, n BIGINT) WITH ('connector' = 'print');

INSERT INTO counts
SELECT word, count(*) AS n
FROM (SELECT unnest(split_words(lower(line))) AS word FROM lines)
GROUP BY word
EMIT FINAL;
