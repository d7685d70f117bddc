CREATE TABLE orders (id int PRIMARY KEY, total numeric(12,2), note text);
INSERT INTO orders VALUES (1, 2.50, 'small'), (2, 12.50, 'large');
