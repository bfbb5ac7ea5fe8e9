CREATE TABLE words (word STRING, n INT) WITH ('connector' = 'file', 'path' = 'words.csv', 'format' = 'csv');
ALTER TABLE words ADD COLUMN m INT;
DROP TABLE words;
