CREATE TABLE orders (id BIGINT NOT NULL, customer STRING, ordered TIMESTAMP(3), WATERMARK FOR ordered AS ordered)
WITH ('connector' = 'kafka', 'topic' = 'orders', 'properties.bootstrap.servers' = '127.0.0.1:9092', 'format' = 'json');
CREATE TABLE customers (name STRING, since TIMESTAMP(3), WATERMARK FOR since AS since)
WITH ('connector' = 'kafka', 'topic' = 'customers', 'properties.bootstrap.servers' = '127.0.0.1:9092', 'format' = 'json');
CREATE TABLE regions (name STRING)
WITH ('connector' = 'kafka', 'topic' = 'regions', 'properties.bootstrap.servers' = '127.0.0.1:9092', 'format' = 'json');

SELECT /*+ STATE_TTL('order' = '1 day', 'c' = '1 h') */ id FROM orders JOIN customers AS c ON customer = name;

SELECT /*+ STATE_TTL('customers' = '1 h') */ id FROM orders JOIN customers AS c ON customer = name;

SELECT /*+ STATE_TTK('orders' = '1 day') */ id FROM orders;

SELECT /*+ STATE_TTL('orders' = 'a day or so') */ id FROM orders;

SELECT /*+ STATE_TTL(orders) */ id FROM orders;

SELECT /*+ STATE_TTL('regions' = '1 day') */ count(DISTINCT name) FROM regions;
