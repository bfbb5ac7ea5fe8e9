CREATE TABLE sales (id BIGINT, customer STRING, sold TIMESTAMP(3), WATERMARK FOR sold AS sold - INTERVAL '5' SECOND) WITH ('connector' = 'file', 'path' = 'sales.csv', 'format' = 'csv');
CREATE TABLE customers (name STRING, country STRING) WITH ('connector' = 'http', 'url' = 'ftp://127.0.0.1:8080/customers/{name}', 'format' = 'json');
SELECT s.id, c.country FROM sales AS s JOIN customers FOR SYSTEM_TIME AS OF PROCTIME() AS c ON c.name = s.customer;
