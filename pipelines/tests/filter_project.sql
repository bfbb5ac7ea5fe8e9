-- Large orders go through as they come.

USE PIPELINE '../filter_project.sql';

INSERT INTO orders VALUES (1, 'ann', 150), (2, 'bob', 149.99), (3, NULL, 200), (4, 'cy', NULL);
ASSERT CHANGELOG OF large_orders IS VALUES (1, 'ANN', 178.5), (3, NULL, 238);

INSERT INTO orders (price, id) VALUES (1000, 5);
ASSERT CHANGELOG OF large_orders IS VALUES (5, NULL, 1190);
ASSERT TABLE large_orders (id) IS SELECT id FROM orders WHERE price >= 150;
