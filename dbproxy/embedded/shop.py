"""The sample shop of the demo and the tests: customers with something to protect, and their orders."""

from __future__ import annotations

SHOP_SQL = """
create table customers (
    id    integer primary key,
    name  text not null,
    email text not null unique,
    ssn   text not null
);
create table orders (
    id          integer primary key,
    customer_id integer not null references customers,
    item        text not null,
    amount      numeric(10, 2) not null,
    placed_at   timestamptz not null
);
create index on orders (customer_id);

insert into customers
select n, (array['Ada', 'Ben', 'Cleo', 'Dan', 'Eve', 'Finn', 'Gus'])[1 + n % 7] || ' ' || (array['Ash', 'Birch', 'Cedar', 'Elm', 'Fir'])[1 + n % 5],
       'customer' || n || '@example.com', to_char(900000000 + n * 7919, 'FM000"-"00"-"0000')
from generate_series(1, 200) n;

insert into orders
select n, 1 + n * 31 % 200, (array['lamp', 'chair', 'desk', 'shelf', 'rug'])[1 + n % 5], 10 + n * 37 % 900 + 0.5, '2026-01-01'::timestamptz + n * interval '1 hour'
from generate_series(1, 1000) n;

analyze;
"""
CUSTOMERS = 200
MARIADB_SHOP_SQL = f"""
create table customers as select seq id, concat('customer ', seq) name, concat('customer', seq, '@example.com') email
  from seq_1_to_{CUSTOMERS};
alter table customers add primary key (id);
create table orders as select seq id, 1 + seq % {CUSTOMERS} customer_id,
  elt(1 + seq % 5, 'teapot', 'lamp', 'kettle', 'notebook', 'umbrella') item, 5 + seq % 90 amount from seq_1_to_1000;
alter table orders add primary key (id);
"""  # noqa: S608  # numbers of our own
"""The same tables, as far as the demo needs them."""
ORDERS = 1000
