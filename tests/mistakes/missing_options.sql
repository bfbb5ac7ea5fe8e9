CREATE TABLE orders (id BIGINT) WITH ('connector' = 'kafka');

SELECT id FROM orders;
