"""psycopg 3."""

import threading
import time

import psycopg
from psycopg import errors

from checks import *

NO_CODE = "The message only: libpq hands on no SQLSTATE of a connection that failed."

MESSAGE = "The driver hands on the message without the SQLSTATE. So it does when PostgreSQL itself ends a session."


def connect(user, password=PASSWORD):
    return psycopg.connect(
        host=HOST, port=PORT, dbname=DATABASE, user=user, password=password,
        sslmode="verify-full", sslrootcert=CA, channel_binding="require", autocommit=True,
    )


def value(conn, sql, *args):
    return conn.execute(sql, args).fetchone()


v = psycopg.pq.version()
say(f"version {psycopg.__version__}, libpq {v // 10000}.{v % 10000}")
say("tls verify-full, channel binding")
conn = connect(USER)
with check("login"):
    is_role(value(conn, "SELECT session_user")[0])
with check("parameters"):
    equal(value(conn, "SELECT %s::int + 2, %s::text", 40, GREETING), (42, GREETING))
    with conn.pipeline():  # several queries on the way at once
        cursors = [conn.execute("SELECT %s::int", (n,)) for n in range(20)]
    equal([c.fetchone()[0] for c in cursors], list(range(20)))
with check("rows"):
    with conn.cursor(binary=True) as cur:
        names = cur.execute("SELECT id, name FROM customers ORDER BY id").fetchall()
    equal((len(names), names[0], names[-1]), (100, (1, "Customer 1"), (100, "Customer 100")))
with check("copy-out"):
    with conn.cursor() as cur, cur.copy("COPY customers TO STDOUT") as copy:
        equal(len(list(copy.rows())), 100)
with check("copy-in"):
    with conn.transaction(force_rollback=True), conn.cursor() as cur:
        with cur.copy("COPY orders (customer_id, note) FROM STDIN") as copy:
            for n in (1, 2, 3):
                copy.write_row((n, "copied"))
        equal(value(conn, "SELECT count(*) FROM orders WHERE note = 'copied'"), (3,))
with check("transaction"):
    for rollback, note in ((True, "Order 1"), (False, "changed")):
        with conn.transaction(force_rollback=rollback):
            conn.execute("UPDATE orders SET note = 'changed' WHERE id = 1")
        equal(value(conn, "SELECT note FROM orders WHERE id = 1"), (note,))
with check("error"):
    with raises(errors.UndefinedTable) as e:
        value(conn, "SELECT * FROM no_such_table")
    equal(e[0].sqlstate, "42P01")
    equal(value(conn, "SELECT 1"), (1,))
with check("cancel"):
    threading.Timer(0.5, conn.cancel).start()
    with raises(errors.QueryCanceled) as e:
        value(conn, "SELECT pg_sleep(30)")
    equal(e[0].sqlstate, "57014")
    equal(value(conn, "SELECT 1"), (1,))
with check("wrong-password", NO_CODE):
    with raises(psycopg.OperationalError) as e:
        connect(USER, "wrong")
    is_wrong_password(str(e[0]))
with check("expired-grant", NO_CODE):
    with raises(psycopg.OperationalError) as e:
        connect(EXPIRED_USER)
    contains(str(e[0]), *DENIAL)

running, idle = connect(ENDING_USER), connect(ENDING_USER)
say("end")
for name, session, sql in (("end-running", running, "SELECT pg_sleep(30)"), ("end-idle", idle, "SELECT 1")):
    with check(name, MESSAGE):
        with raises(psycopg.OperationalError) as e:
            value(session, sql)
        contains(str(e[0]), "terminating connection: your grant has ended")
    time.sleep(1)  # until the other has ended, too
