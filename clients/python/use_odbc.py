"""psqlODBC, through pyodbc."""

import threading
import time

import pyodbc

from checks import *

DRIVER = "/usr/lib/x86_64-linux-gnu/odbc/psqlodbcw.so"
pyodbc.pooling = False

NO_CODE = "The message only: libpq hands on no SQLSTATE of a connection that failed."


def connect(user, password=PASSWORD):
    password = "{" + password.replace("}", "}}") + "}"
    return pyodbc.connect(
        f"Driver={DRIVER};Servername={HOST};Port={PORT};Database={DATABASE};Uid={user};Pwd={password};"
        f"SSLmode=verify-full;pqopt={{sslrootcert={CA} channel_binding=require}}", autocommit=True,
    )


def value(conn, sql, *args):
    return tuple(conn.execute(sql, *args).fetchone())


conn = connect(USER)
say(f"version {conn.getinfo(pyodbc.SQL_DRIVER_VER)}, pyodbc {pyodbc.version}")
say("tls verify-full, channel binding")
with check("login"):
    is_role(value(conn, "SELECT session_user::text")[0])
with check("parameters"):
    equal(value(conn, "SELECT ?::int + 2, ?::text", 40, GREETING), (42, GREETING))
with check("rows"):
    names = conn.execute("SELECT name FROM customers ORDER BY id").fetchall()
    equal((len(names), names[0][0], names[-1][0]), (100, "Customer 1", "Customer 100"))
say("n/a copy-out: ODBC has no COPY.")
say("n/a copy-in: ODBC has no COPY.")
with check("transaction"):
    conn.autocommit = False
    for end, note in ((conn.rollback, "Order 1"), (conn.commit, "changed")):
        conn.execute("UPDATE orders SET note = 'changed' WHERE id = 1")
        end()
        equal(value(conn, "SELECT note FROM orders WHERE id = 1"), (note,))
        conn.rollback()
    conn.autocommit = True
with check("error"):
    with raises(pyodbc.Error) as e:
        value(conn, "SELECT * FROM no_such_table")
    contains(e[0].args[0], "42P01")
    equal(value(conn, "SELECT 1"), (1,))
with check("cancel"):
    cur = conn.cursor()
    threading.Timer(0.5, cur.cancel).start()
    with raises(pyodbc.Error) as e:
        cur.execute("SELECT pg_sleep(30)")
    contains(str(e[0]), "canceling statement")
    equal(value(conn, "SELECT 1"), (1,))
with check("wrong-password", NO_CODE):
    with raises(pyodbc.Error) as e:
        connect(USER, "wrong")
    equal(e[0].args[0], "08001")
    is_wrong_password(str(e[0]))
with check("expired-grant", NO_CODE):
    with raises(pyodbc.Error) as e:
        connect(EXPIRED_USER)
    equal(e[0].args[0], "08001")
    contains(str(e[0]), *DENIAL)

running, idle = connect(ENDING_USER), connect(ENDING_USER)
say("end")
for name, session, sql in (("end-running", running, "SELECT pg_sleep(30)"), ("end-idle", idle, "SELECT 1")):
    with check(name):
        with raises(pyodbc.Error) as e:
            value(session, sql)
        contains(str(e[0]), "57P01")
    time.sleep(1)  # until the other has ended, too
