"""pgcli, in a terminal of its own."""

import os
import pty
import re
import select
import subprocess
import time

from checks import *

CONFIG = """[main]
less_chatty = True
enable_pager = False
destructive_warning = off
multi_line = False
auto_expand = False
expand = False
table_format = csv
prompt = ready>
"""

# Control sequences: colours, cursor movements, titles.
CONTROL = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[=>()][0AB]?)")


class Terminal:
    """pgcli, logged in as a user."""

    def __init__(self, user, password=PASSWORD):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(
                PGSSLMODE="verify-full", PGSSLROOTCERT=CA, PGCHANNELBINDING="require", PGPASSWORD=password,
                TERM="xterm", PROMPT_TOOLKIT_NO_CPR="1", COLUMNS="200",
            )
            os.execvp("pgcli", ["pgcli", "-w", "-h", HOST, "-p", str(PORT), "-U", user, "-d", DATABASE])
        self.seen = ""

    def expect(self, *wanted, seconds=60):
        """Reads until one of some texts has appeared, and returns what came until then."""
        deadline = time.monotonic() + seconds
        while not any(w in self.seen for w in wanted):
            readable, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            try:
                data = os.read(self.fd, 65536) if readable else b""
            except OSError:  # pgcli has ended
                data = b""
            if not data:
                raise AssertionError(f"no {wanted} in {self.seen[-1500:]!r}")
            self.seen = CONTROL.sub("", self.seen + data.decode(errors="replace"))
        seen, self.seen = self.seen, ""
        return seen

    def send(self, line):
        os.write(self.fd, line.encode() + b"\r")

    def run(self, line, *wanted):
        """Sends a line and returns what comes until one of some texts, which must not be in the line itself."""
        self.send(line)
        return self.expect(*wanted)


os.makedirs(os.path.expanduser("~/.config/pgcli"))
with open(os.path.expanduser("~/.config/pgcli/config"), "w") as f:
    f.write(CONFIG)
version = subprocess.run(["pgcli", "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
say(f"version {version}")
say("tls verify-full, channel binding")

NO_CODE = "The message only: pgcli shows no SQLSTATE."
conn = Terminal(USER)
conn.expect("ready>")
with check("login"):
    conn.run("SELECT session_user;", "hg_alice_work_")
say("n/a parameters: pgcli has none.")
with check("rows"):
    contains(conn.run("SELECT name, 'n' || id FROM customers ORDER BY id;", '"n100"'), '"n1"', '"n50"', '"n99"')
say("n/a copy-out: pgcli has no COPY to and from the terminal.")
say("n/a copy-in: pgcli has no COPY to and from the terminal.")
with check("transaction"):
    for end, note in (("ROLLBACK;", "is Order 1"), ("COMMIT;", "is changed")):
        conn.run("BEGIN;", "BEGIN\r")
        conn.run("UPDATE orders SET note = 'changed' WHERE id = 1;", "UPDATE 1")
        conn.run(end, end.rstrip(";") + "\r")
        conn.run("SELECT 'is ' || note FROM orders WHERE id = 1;", note)
with check("error", NO_CODE):
    conn.run("SELECT * FROM no_such_table;", 'relation "no_such_table" does not exist')
    conn.run("SELECT 'it ' || 'goes on';", "it goes on")
with check("cancel", "pgcli drops the connection and opens another."):
    conn.send("SELECT pg_sleep(30);")
    time.sleep(1)
    os.write(conn.fd, b"\x03")
    conn.expect("cancelled query", seconds=20)
    conn.run("SELECT 'it ' || 'goes on';", "it goes on")
with check("wrong-password", NO_CODE):
    is_wrong_password(Terminal(USER, "wrong").expect(f'user "{USER}"'))
with check("expired-grant", NO_CODE):
    contains(" ".join(Terminal(EXPIRED_USER).expect("You may connect to: invoices").split()), *DENIAL[:2])

running, idle = Terminal(ENDING_USER), Terminal(ENDING_USER)
for terminal in (running, idle):
    terminal.expect("ready>")
say("end")
for name, terminal, sql in (("end-running", running, "SELECT pg_sleep(30);"), ("end-idle", idle, "SELECT 1;")):
    with check(name, "pgcli connects again at once, and shows how that is refused."):
        terminal.run(sql, "Reconnecting")
        terminal.expect(DENIAL[0])
