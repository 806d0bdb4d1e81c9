"""asyncpg."""

import asyncio
import io
import ssl

import asyncpg

from checks import *

CLOSED = "The driver tells that the connection was closed and not why. So it does when PostgreSQL itself ends a session."


def connect(user, password=PASSWORD):
    return asyncpg.connect(
        host=HOST, port=PORT, database=DATABASE, user=user, password=password,
        ssl=ssl.create_default_context(cafile=CA),
    )


class Undo(Exception):
    pass


async def main():
    say(f"version {asyncpg.__version__}")
    say("tls verify-full")
    conn = await connect(USER)
    with check("login"):
        is_role(await conn.fetchval("SELECT session_user"))
    with check("parameters"):
        equal(tuple(await conn.fetchrow("SELECT $1::int + 2, $2::text", 40, GREETING)), (42, GREETING))
    with check("rows"):
        names = await conn.fetch("SELECT name FROM customers ORDER BY id")
        equal((len(names), names[0][0], names[-1][0]), (100, "Customer 1", "Customer 100"))
        async with conn.transaction():  # and through a cursor, some at a time
            equal(len([r async for r in conn.cursor("SELECT * FROM customers", prefetch=7)]), 100)
    with check("copy-out"):
        out = io.BytesIO()
        await conn.copy_from_query("SELECT * FROM customers", output=out)
        equal(out.getvalue().count(b"\n"), 100)
    with check("copy-in"):
        with raises(Undo):
            async with conn.transaction():
                records = [(n, "copied") for n in (1, 2, 3)]
                await conn.copy_records_to_table("orders", records=records, columns=["customer_id", "note"])
                equal(await conn.fetchval("SELECT count(*) FROM orders WHERE note = 'copied'"), 3)
                raise Undo
    with check("transaction"):
        for undo, note in ((True, "Order 1"), (False, "changed")):
            try:
                async with conn.transaction():
                    await conn.execute("UPDATE orders SET note = 'changed' WHERE id = 1")
                    if undo:
                        raise Undo
            except Undo:
                pass
            equal(await conn.fetchval("SELECT note FROM orders WHERE id = 1"), note)
    with check("error"):
        with raises(asyncpg.UndefinedTableError) as e:
            await conn.fetch("SELECT * FROM no_such_table")
        equal(e[0].sqlstate, "42P01")
        equal(await conn.fetchval("SELECT 1"), 1)
    with check("cancel", "The driver turns 57014 into a timeout of its own."):
        began = asyncio.get_running_loop().time()
        with raises(asyncio.TimeoutError):
            await conn.fetch("SELECT pg_sleep(30)", timeout=0.5)
        equal(await conn.fetchval("SELECT 1"), 1)  # it waits until the statement has ended
        if asyncio.get_running_loop().time() - began > 20:
            raise AssertionError("the statement went on")
    with check("wrong-password"):
        with raises(asyncpg.InvalidPasswordError) as e:
            await connect(USER, "wrong")
        is_wrong_password(str(e[0]))
        equal(e[0].sqlstate, "28P01")
    with check("expired-grant"):
        with raises(asyncpg.InvalidAuthorizationSpecificationError) as e:
            await connect(EXPIRED_USER)
        equal(e[0].sqlstate, "28000")
        contains(f"{e[0].message} {e[0].detail} {e[0].hint}", *DENIAL)

    running, idle = await connect(ENDING_USER), await connect(ENDING_USER)
    say("end")
    with check("end-running", CLOSED):
        with raises(asyncpg.ConnectionDoesNotExistError):
            await running.fetch("SELECT pg_sleep(30)")
    await asyncio.sleep(1)  # until the other has ended, too
    with check("end-idle", CLOSED):
        with raises(asyncpg.InterfaceError) as e:
            await idle.fetch("SELECT 1")
        contains(str(e[0]), "connection is closed")


asyncio.run(main())
