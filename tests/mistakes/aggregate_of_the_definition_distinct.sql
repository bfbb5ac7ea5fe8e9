CREATE TABLE sales (shop STRING, cents BIGINT) WITH ('connector' = 'file', 'path' = 'sales.csv', 'format' = 'csv');

CREATE AGGREGATE FUNCTION squares(n BIGINT) RETURNS BIGINT STATE (sum BIGINT) LANGUAGE wasm AS 'examples/wasm/squares.wasm';

SELECT shop, squares(DISTINCT cents) FROM sales GROUP BY shop;
