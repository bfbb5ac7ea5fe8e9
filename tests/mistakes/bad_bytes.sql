CREATE TABLE w (w STRING) WITH ('connector' = 'file', 'path' = 'w.txt', 'format' = 'raw', 'split.bytes' = '64 megs');

SELECT w FROM w;
