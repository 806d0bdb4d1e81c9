CREATE TABLE customers (
    id   int PRIMARY KEY,
    name text
);

CREATE TABLE orders (
    id          serial PRIMARY KEY,
    customer_id int REFERENCES customers,
    amount      numeric(10, 2),
    note        text
);

INSERT INTO customers SELECT n, 'Customer ' || n FROM generate_series(1, 100) n;

INSERT INTO orders (customer_id, amount, note)
SELECT 1 + n % 100, n * 1.25, 'Order ' || n FROM generate_series(1, 300) n;
