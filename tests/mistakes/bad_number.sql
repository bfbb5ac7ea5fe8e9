CREATE TABLE n (n INT) WITH ('connector' = 'datagen', 'number-of-rows' = 'a lot', 'splits' = '0');

SELECT n FROM n;
