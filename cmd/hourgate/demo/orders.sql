-- What the demo's database holds: a small shop in which three orders were paid twice.
CREATE TABLE customers (
    id   int PRIMARY KEY,
    name text NOT NULL,
    city text NOT NULL
);

CREATE TABLE orders (
    id          int PRIMARY KEY,
    customer_id int NOT NULL REFERENCES customers,
    total       numeric(10, 2) NOT NULL,
    status      text NOT NULL CHECK (status IN ('open', 'paid', 'cancelled', 'refunded')),
    placed_at   timestamptz NOT NULL
);

CREATE TABLE payments (
    id       int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id int NOT NULL REFERENCES orders,
    amount   numeric(10, 2) NOT NULL,
    paid_at  timestamptz NOT NULL
);

INSERT INTO customers VALUES
    (1, 'Acme Tools', 'Leeds'), (2, 'Bakkerij Jansen', 'Utrecht'), (3, 'Castell Vins', 'Girona'),
    (4, 'Dahl & Lind', 'Uppsala'), (5, 'Elbe Fahrrad', 'Dresden'), (6, 'Fiore Moda', 'Parma'),
    (7, 'Gordon Teas', 'Perth'), (8, 'Hansen Fisk', 'Bergen'), (9, 'Iris Optik', 'Graz'),
    (10, 'Jensen Lys', 'Aarhus'), (11, 'Kowal Meble', 'Gdansk'), (12, 'Lopes Livros', 'Porto');

INSERT INTO orders
SELECT n, 1 + n * 7 % 12, 10.90 + n * 37 % 190,
       CASE WHEN n % 5 = 0 THEN 'open' WHEN n % 7 = 0 THEN 'cancelled' ELSE 'paid' END,
       date_trunc('minute', now()) - (1041 - n) * interval '7 hours 13 minutes'
  FROM generate_series(1001, 1040) n;

INSERT INTO payments (order_id, amount, paid_at)
SELECT id, total, placed_at + interval '2 minutes' FROM orders WHERE status = 'paid' ORDER BY id;

INSERT INTO payments (order_id, amount, paid_at)
SELECT id, total, placed_at + interval '3 minutes' FROM orders WHERE id IN (1009, 1017, 1031) ORDER BY id;
