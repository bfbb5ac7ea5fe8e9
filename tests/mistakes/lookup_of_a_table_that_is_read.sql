CREATE TABLE sales (id BIGINT, customer STRING, sold TIMESTAMP(3), WATERMARK FOR sold AS sold - INTERVAL '5' SECOND) WITH ('connector' = 'file', 'path' = 'sales.csv', 'format' = 'csv');
SELECT s.id, c.id FROM sales AS s JOIN sales FOR SYSTEM_TIME AS OF PROCTIME() AS c ON c.id = s.id;
