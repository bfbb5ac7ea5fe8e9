CREATE TABLE words (word STRING, n INT) WITH ('connector' = 'file', 'path' = 'words.csv', 'format' = 'csv');
UPDATE words SET n = 1;
