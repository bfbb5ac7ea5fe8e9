-- A first pipeline: temperatures per sensor, in windows of ten seconds.
--
--   highwater run {file}                     # runs it: a window is printed when it closes
--   highwater explain {file}                 # what runs
--   highwater sql {file}                     # ask questions about its tables
--
-- Change it, run it again. `highwater functions` lists what can be called.

SET 'pipeline.name' = '{name}';

-- Where rows come from. This connector makes them up: 200 a second, 2000 in all (leave 'number-of-rows' out, and they
-- come until Ctrl-C). `highwater init --kafka` reads a topic instead, `highwater init --file PATH` a file.
CREATE TABLE readings (
  sensor INT,
  degrees DOUBLE,
  at TIMESTAMP(3),
  -- Event time, and a promise: no row comes more than two seconds after a newer one. A window closes when the
  -- watermark has passed its end.
  WATERMARK FOR at AS at - INTERVAL '2' SECOND
) WITH (
  'connector' = 'datagen',
  'rows-per-second' = '200',
  'number-of-rows' = '2000',
  'fields.sensor.min' = '1',
  'fields.sensor.max' = '4',
  'fields.degrees.min' = '15',
  'fields.degrees.max' = '25',
  'fields.at.kind' = 'time',
  'fields.at.start' = '2026-01-01T00:00:00Z',
  'fields.at.step' = '200 ms',
  'fields.at.disorder' = '1 s'
);

-- Where rows go: 'print' is the terminal. A file or a topic is another table.
CREATE TABLE averages (window_start TIMESTAMP(3), sensor INT, readings BIGINT, degrees DOUBLE) WITH (
  'connector' = 'print'
);

INSERT INTO averages
SELECT window_start, sensor, count(*), round(avg(degrees), 2)
FROM TABLE(TUMBLE(TABLE readings, DESCRIPTOR(at), INTERVAL '10' SECOND))
GROUP BY window_start, sensor;
