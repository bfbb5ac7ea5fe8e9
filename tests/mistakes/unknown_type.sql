CREATE TABLE words (word STRNG, n INTEGR) WITH ('connector' = 'file', 'path' = 'w.csv', 'format' = 'csv');

SELECT word FROM words;
