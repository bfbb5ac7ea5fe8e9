CREATE TABLE words (word STRING) WITH ('connector' = 'file', 'path' = 'a.csv', 'format' = 'csv', 'path' = 'b.csv');

SELECT word FROM words;
