CREATE TABLE words (word STRING, n INT) WITH ('connector' = 'file', 'path' = 'words.csv', 'format' = 'csv');
SELECT word FROM default_catalog.words;
INSERT INTO a.b SELECT word FROM words;
