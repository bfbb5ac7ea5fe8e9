CREATE TABLE w (w STRING) WITH ('connector' = 'file', 'path' = 'w.csv', 'format' = 'csv', 'csv.header' = 'yes');

SELECT w FROM w;
