-- A stream joined with a table that ends waits for its end.

CREATE TABLE orders (customer STRING, id BIGINT) WITH (
  'connector' = 'kafka', 'topic' = 'nowhere', 'properties.bootstrap.servers' = '127.0.0.1:1', 'format' = 'json'
);
CREATE TABLE customers (name STRING, country STRING) WITH ('connector' = 'memory');
CREATE TABLE out (country STRING, id BIGINT) WITH ('connector' = 'memory');
INSERT INTO out SELECT country, id FROM orders LEFT JOIN customers ON customer = name;

INSERT INTO orders VALUES ('ann', 1), ('bob', 2);
INSERT INTO customers VALUES ('ann', 'FR');
ASSERT TABLE out EMPTY;
INSERT INTO customers VALUES ('cy', 'IT'), ('ann', 'DE');
END OF customers;
ASSERT CHANGELOG OF out IS VALUES ('FR', 1), ('DE', 1), (NULL, 2);
INSERT INTO orders VALUES ('cy', 3);
ASSERT CHANGELOG OF out IS VALUES ('IT', 3);
ASSERT TABLE out IS SELECT country, id FROM orders LEFT JOIN customers ON customer = name;
