CREATE TABLE screen (customer STRING, orders BIGINT) WITH ('connector' = 'print');

SELECT customer FROM screen;
