CREATE TABLE logs (line STRING, at TIMESTAMP, WATERMARK FOR ta AS ta - INTERVAL '5' SECOND) WITH ('connector' = 'file', 'path' = 'l.csv', 'format' = 'csv');

SELECT line FROM logs;
