CREATE TABLE logs (line STRING, at STRING, WATERMARK FOR at AS at - INTERVAL '5' SECOND) WITH ('connector' = 'file', 'path' = 'l.csv', 'format' = 'csv');

SELECT line FROM logs;
