"""Drivers in Python in database "hourgate". The argument says which."""

import asyncio
import os
import ssl
import sys

HOST, PORT, CA = (os.environ["HOURGATE_" + name] for name in ("HOST", "PORT", "CA"))
USER, APPROVER, PASSWORD = (os.environ["HOURGATE_" + name] for name in ("USER", "APPROVER", "PASSWORD"))


class Libpq:
    """psycopg 2 and 3, which have one interface."""

    def __init__(self, module):
        self.module = module
        self.mark = "%s"

    def connect(self, user, database):
        return self.module.connect(
            host=HOST, port=PORT, user=user, password=PASSWORD, dbname=database, sslmode="verify-full", sslrootcert=CA)

    def run(self, conn, sql, *args):
        with conn.cursor() as cursor:
            cursor.execute(sql, args or None)
            return [tuple(row) for row in cursor.fetchall()]

    def commit(self, conn):
        conn.commit()

    def code(self, e):
        conn.rollback()
        return getattr(e, "sqlstate", None) or e.pgcode


class Asyncpg:
    mark = "$"

    def __init__(self):
        import asyncpg
        self.module = asyncpg
        self.loop = asyncio.new_event_loop()

    def connect(self, user, database):
        return self.loop.run_until_complete(self.module.connect(
            host=HOST, port=int(PORT), user=user, password=PASSWORD, database=database, ssl=ssl.create_default_context(cafile=CA)))

    def run(self, conn, sql, *args):
        return [tuple(row) for row in self.loop.run_until_complete(conn.fetch(sql, *args))]

    def commit(self, conn):
        pass

    def code(self, e):
        return e.sqlstate


def driver(name):
    if name == "asyncpg":
        return Asyncpg()
    return Libpq(__import__(name))


def check(name, got, *wanted):
    missing = [w for w in wanted if str(w) not in str(got)]
    print(f"FAIL {name}: no {missing} in {got}" if missing else f"ok {name}", flush=True)


d = driver(sys.argv[1])


def sql(text, n):
    """The statement with the driver's own marks for n parameters."""
    for i in range(n):
        text = text.replace("?", d.mark + (str(i + 1) if d.mark == "$" else ""), 1)
    return text


def error(f):
    try:
        return f"no error: {f()}"
    except Exception as e:
        return (d.code(e) if hasattr(e, "sqlstate") or getattr(e, "pgcode", None) else "") + " " + str(e)


def refused():
    try:
        return f"no error: {d.connect(USER, 'orders')}"
    except Exception as e:
        return str(e)


check("refused", refused(), "no live grant")
conn = d.connect(USER, "hourgate")
check("access", d.run(conn, "SHOW ACCESS"), "can ask", "READ_WRITE", "orders")
check("request", d.run(conn, sql("REQUEST ? ON ? FOR ? REASON ?", 4), "READ_WRITE", "orders", "1 hour", "it's late"), "pending", "it's late")
d.commit(conn)
check("own", error(lambda: d.run(conn, sql("APPROVE ?", 1), "1")), "P0001", "nobody decides their own request")
other = d.connect(APPROVER, "hourgate")
check("approve", d.run(other, sql("APPROVE ?", 1), "1"), "active")
check("let-in", d.run(d.connect(USER, "orders"), "SELECT count(*) FROM customers"), 100)
check("catalog", error(lambda: d.run(conn, "SELECT oid, relname FROM pg_catalog.pg_class")), "0A000", "statements about access only")
check("transaction", d.run(conn, "SHOW REQUESTS"), "active")
d.commit(conn)
check("end", d.run(conn, sql("END ?", 1), "1"), "ended by owner")
check("end", refused(), "no live grant")
