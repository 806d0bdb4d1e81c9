"""psycopg 2."""

import io
import threading
import time

import psycopg2
from psycopg2 import errors

from checks import *

NO_CODE = "The message only: libpq hands on no SQLSTATE of a connection that failed."

CLOSED = "The driver tells that the connection was closed and not why. So it does when PostgreSQL itself ends a session."


def connect(user, password=PASSWORD):
    return psycopg2.connect(
        host=HOST, port=PORT, dbname=DATABASE, user=user, password=password,
        sslmode="verify-full", sslrootcert=CA, channel_binding="require",
    )


def value(conn, sql, *args):
    with conn.cursor() as cur:
        cur.execute(sql, args)
        return cur.fetchone()


v = psycopg2.extensions.libpq_version()
say(f"version {psycopg2.__version__.split()[0]}, libpq {v // 10000}.{v % 10000}")
say("tls verify-full, channel binding")
conn = connect(USER)
conn.autocommit = True
with check("login"):
    is_role(value(conn, "SELECT session_user")[0])
with check("parameters", "The driver puts parameters into the text of the query itself."):
    equal(value(conn, "SELECT %s::int + 2, %s::text", 40, GREETING), (42, GREETING))
with check("rows"):
    with conn.cursor() as cur:
        cur.execute("SELECT name FROM customers ORDER BY id")
        names = cur.fetchall()
    equal((len(names), names[0], names[-1]), (100, ("Customer 1",), ("Customer 100",)))
with check("copy-out"):
    out = io.StringIO()
    with conn.cursor() as cur:
        cur.copy_expert("COPY customers TO STDOUT", out)
    equal(out.getvalue().count("\n"), 100)
conn.autocommit = False
with check("copy-in"):
    with conn.cursor() as cur:
        cur.copy_expert("COPY orders (customer_id, note) FROM STDIN", io.StringIO("1\tcopied\n2\tcopied\n3\tcopied\n"))
    equal(value(conn, "SELECT count(*) FROM orders WHERE note = 'copied'"), (3,))
    conn.rollback()
with check("transaction"):
    for end, note in ((conn.rollback, "Order 1"), (conn.commit, "changed")):
        with conn.cursor() as cur:
            cur.execute("UPDATE orders SET note = 'changed' WHERE id = 1")
        end()
        equal(value(conn, "SELECT note FROM orders WHERE id = 1"), (note,))
        conn.rollback()
conn.autocommit = True
with check("error"):
    with raises(errors.UndefinedTable) as e:
        value(conn, "SELECT * FROM no_such_table")
    equal(e[0].pgcode, "42P01")
    equal(value(conn, "SELECT 1"), (1,))
with check("cancel"):
    threading.Timer(0.5, conn.cancel).start()
    with raises(errors.QueryCanceled) as e:
        value(conn, "SELECT pg_sleep(30)")
    equal(e[0].pgcode, "57014")
    equal(value(conn, "SELECT 1"), (1,))
with check("wrong-password", NO_CODE):
    with raises(psycopg2.OperationalError) as e:
        connect(USER, "wrong")
    is_wrong_password(str(e[0]))
with check("expired-grant", NO_CODE):
    with raises(psycopg2.OperationalError) as e:
        connect(EXPIRED_USER)
    contains(str(e[0]), *DENIAL)

running, idle = connect(ENDING_USER), connect(ENDING_USER)
say("end")
for name, session, sql in (("end-running", running, "SELECT pg_sleep(30)"), ("end-idle", idle, "SELECT 1")):
    with check(name, CLOSED):
        with raises(psycopg2.OperationalError) as e:
            value(session, sql)
        contains(str(e[0]), "connection has been closed")
    time.sleep(1)  # until the other has ended, too
