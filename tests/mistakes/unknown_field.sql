CREATE TABLE clicks (page ROW<url STRING, title STRING>) WITH ('connector' = 'file', 'path' = 'c.json', 'format' = 'json');

SELECT page['ulr'] FROM clicks;
