CREATE TABLE t (at TIMESTAMP(9), price DECIMAL(50, 2)) WITH ('connector' = 'file', 'path' = 't.csv', 'format' = 'csv');

SELECT * FROM t;
