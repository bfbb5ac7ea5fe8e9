CREATE TABLE w (a STRING, b STRING) WITH ('connector' = 'file', 'path' = 'w.txt', 'format' = 'raw');

SELECT a FROM w;
