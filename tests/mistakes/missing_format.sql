CREATE TABLE words (word STRING) WITH ('connector' = 'file', 'path' = 'w.csv');

SELECT word FROM words;
