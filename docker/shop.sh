#!/bin/sh
# Run once by the PostgreSQL image when it makes its cluster: the shop, and the account that the proxy uses.
set -eu
psql -X -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\set password `cat "${SECRETS:-/run/secrets}/shop_app"`
create role shop_app login password :'password';
grant all on schema public to shop_app;
set role shop_app;
create table customers (id integer primary key, name text not null, email text not null unique);
create table orders (id integer primary key, customer_id integer not null references customers, item text not null, amount numeric(10, 2) not null);
insert into customers select n, 'Customer ' || n, 'customer' || n || '@example.com' from generate_series(1, 200) n;
insert into orders select n, 1 + n * 31 % 200, (array['lamp', 'chair', 'desk'])[1 + n % 3], 10 + n % 900 from generate_series(1, 1000) n;
SQL
