CREATE TABLE numbers (n INT) WITH ('connector' = 'datagen', 'fields.m.max' = '10');

SELECT n FROM numbers;
