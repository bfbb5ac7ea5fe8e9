CREATE TABLE orders (id BIGINT, ordered TIMESTAMP(3)) WITH ('connector' = 'file', 'path' = 'o.csv', 'format' = 'csv');

SELECT window_start, count(*) FROM tumble(orders, ordered, INTERVAL '1' MINUTE) GROUP BY window_start;
