CREATE TABLE words (word STRING, n INT) WITH ('connector' = 'file', 'path' = 'words.csv', 'format' = 'csv');
EXECUTE STATEMENT SET BEGIN
SELECT word FROM words;
