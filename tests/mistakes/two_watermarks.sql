CREATE TABLE logs (at TIMESTAMP, WATERMARK FOR at AS at, WATERMARK FOR at AS at) WITH ('connector' = 'file', 'path' = 'l.csv', 'format' = 'csv');

SELECT at FROM logs;
