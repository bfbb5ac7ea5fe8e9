-- Rows that come too late for their windows go to a table of their own, with the reason, the watermark that they met and
-- the place where they were read.
--
--   highwater run pipelines/late_rows.sql
--
-- The messages are out of order by up to 20 seconds, but the watermark stays only 5 seconds behind the newest one, and
-- windows stay open for 10 seconds more: what is later than that is late. Epochs end by their rows here, so that every
-- run finds the same rows late.

SET 'pipeline.name' = 'late_rows';
SET 'tick' = '50 rows';

CREATE TABLE messages (
  text STRING,
  sent TIMESTAMP(3),
  WATERMARK FOR sent AS sent - INTERVAL '5' SECOND
) WITH (
  'connector' = 'datagen',
  'number-of-rows' = '2000',
  'seed' = '7',
  'fields.text.kind' = 'words',
  'fields.text.vocabulary' = '12',
  'fields.text.words' = '3',
  'fields.sent.kind' = 'time',
  'fields.sent.start' = '2026-01-01T00:00:00Z',
  'fields.sent.step' = '100 ms',
  'fields.sent.disorder' = '20 s'
);

CREATE TABLE counts (window_start TIMESTAMP(3), n BIGINT) WITH ('connector' = 'blackhole');

-- Columns are filled by their names: with those of the messages, and with what is known of the lateness.
CREATE TABLE too_late (
  sent TIMESTAMP(3), text STRING, window_end TIMESTAMP(3), watermark TIMESTAMP(3), reason STRING, place STRING
) WITH ('connector' = 'print');

INSERT INTO counts
SELECT window_start, count(*)
FROM TABLE(TUMBLE(TABLE messages, DESCRIPTOR(sent), INTERVAL '2' SECOND))
GROUP BY window_start
ALLOWED LATENESS INTERVAL '10' SECONDS
LATE INTO too_late;
