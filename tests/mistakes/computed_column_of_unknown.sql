CREATE TABLE t (ms BIGINT, at AS to_timestamp_millis(msec)) WITH ('connector' = 'file', 'path' = 't.csv', 'format' = 'csv');

SELECT at FROM t;
