CREATE TABLE words (word STRING, n INT) WITH ('connector' = 'file', 'path' = 'words.csv', 'format' = 'csv');
SELECT 'Käse 词 🧀' AS text, wrod FROM words;
