CREATE TABLE words (word STRING, n INT, word STRING) WITH ('connector' = 'file', 'path' = 'w.csv', 'format' = 'csv');

SELECT word FROM words;
