-- Counts the words of a file, and prints each count when all is read.
--
--   highwater run {file}
--   highwater run {file} --workers 2         # the same answer, on two threads
--   highwater sql {file}                     # ask questions: SELECT * FROM lines LIMIT 5;

SET 'pipeline.name' = '{name}';

-- 'raw' takes each line as it is. For JSON or CSV name the columns and say 'format' = 'json' or 'csv'. The path may be a
-- pattern such as 'logs/*.txt', or '-' for standard input.
CREATE TABLE lines (line STRING) WITH (
  'connector' = 'file',
  'path' = {path},
  'format' = 'raw'
);

-- 'print' is the terminal. To write a file: 'connector' = 'file', 'path' = 'counts.json', 'format' = 'json'.
CREATE TABLE counts (word STRING, n BIGINT) WITH ('connector' = 'print');

-- EMIT FINAL: one answer, when the input has ended. Without it every change of a count is printed.
INSERT INTO counts
SELECT word, count(*)
FROM (SELECT unnest(split_words(lower(line))) AS word FROM lines)
GROUP BY word
EMIT FINAL;
