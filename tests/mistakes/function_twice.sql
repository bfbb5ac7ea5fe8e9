CREATE TABLE sales (shop STRING, cents BIGINT) WITH ('connector' = 'file', 'path' = 'sales.csv', 'format' = 'csv');

CREATE FUNCTION upper(text STRING) RETURNS STRING LANGUAGE wasm AS 'examples/wasm/shout.wasm';
CREATE FUNCTION shout(text STRING) RETURNS STRING LANGUAGE wasm AS 'examples/wasm/shout.wasm';
CREATE FUNCTION shout(text STRING) RETURNS STRING LANGUAGE wasm AS 'examples/wasm/shout.wasm';

SELECT shout(shop) FROM sales;
