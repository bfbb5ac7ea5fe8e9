CREATE TABLE words (word STRING, n INT) WITH ('connector' = 'file', 'path' = 'words.csv', 'format' = 'csv');
SELECT word, count(*) FROM words GRUOP BY word;
