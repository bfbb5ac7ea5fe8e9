CREATE TABLE orders (id BIGINT, currency STRING, amount BIGINT, ordered TIMESTAMP(3), WATERMARK FOR ordered AS ordered - INTERVAL '5' SECOND) WITH ('connector' = 'file', 'path' = 'orders.csv', 'format' = 'csv');
CREATE TABLE rates (currency STRING, rate DOUBLE, updated TIMESTAMP(3), WATERMARK FOR updated AS updated, PRIMARY KEY (currency) NOT ENFORCED) WITH ('connector' = 'file', 'path' = 'rates.csv', 'format' = 'csv');
SELECT o.id, r.rate FROM orders AS o ASOF JOIN rates AS r MATCH_CONDITION (o.amount >= r.rate) ON o.currency = r.currency;
