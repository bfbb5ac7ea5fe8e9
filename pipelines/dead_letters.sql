-- Readings from sensors, averaged by minute; records that cannot be read become rows of a table of their own.
--
--   highwater run pipelines/dead_letters.sql
--
-- A dead letter has the record's bytes, what is wrong with it and where it came from; `broken` takes three of its columns.
-- If more than a quarter of all records are bad, something else is wrong, and the pipeline stops.

SET 'pipeline.name' = 'dead-letters';

CREATE TABLE readings (
  sensor STRING NOT NULL,
  celsius DOUBLE,
  measured TIMESTAMP(3),
  WATERMARK FOR measured AS measured - INTERVAL '10' SECOND
) WITH (
  'connector' = 'file',
  'path' = 'examples/readings.jsonl',
  'format' = 'json',
  'on_error' = 'dead_letter(broken)',
  'on_error.max-share' = '0.25'
);

CREATE TABLE broken (record STRING, reason STRING, place STRING) WITH ('connector' = 'print');

CREATE TABLE averages (minute TIMESTAMP(3), sensor STRING, celsius DOUBLE) WITH ('connector' = 'print');

INSERT INTO averages
SELECT window_start, sensor, round(avg(celsius), 1)
FROM TABLE(TUMBLE(TABLE readings, DESCRIPTOR(measured), INTERVAL '1' MINUTE))
GROUP BY window_start, sensor;
