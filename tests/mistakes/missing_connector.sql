CREATE TABLE orders (id BIGINT) WITH ('format' = 'json');

SELECT id FROM orders;
