CREATE TABLE logs (line STRING, at TIMESTAMP, WATERMARK FOR at AS INTERVAL '5' SECOND) WITH ('connector' = 'file', 'path' = 'l.csv', 'format' = 'csv');

SELECT line FROM logs;
