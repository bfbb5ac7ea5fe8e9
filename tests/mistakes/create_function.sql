CREATE TABLE words (word STRING, n INT) WITH ('connector' = 'file', 'path' = 'words.csv', 'format' = 'csv');
CREATE FUNCTION f AS 'com.example.F';
SELECT word FROM words;
