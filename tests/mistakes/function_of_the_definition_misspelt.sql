CREATE TABLE sales (shop STRING, cents BIGINT) WITH ('connector' = 'file', 'path' = 'sales.csv', 'format' = 'csv');

CREATE FUNCTION fee(cents BIGINT, per_mille BIGINT) RETURNS BIGINT LANGUAGE wasm AS 'examples/wasm/fee.wasm';

SELECT shop, fees(cents, 5) FROM sales;
