"""pgcli in database "hourgate", in a terminal of its own."""

import os
import pty
import re
import select
import time

CONTROL = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[=>()][0AB]?)")


def env(name):
    return os.environ["HOURGATE_" + name]


class Terminal:
    def __init__(self, user, database):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(
                PGSSLMODE="verify-full", PGSSLROOTCERT=env("CA"), PGPASSWORD=env("PASSWORD"), TERM="xterm", PROMPT_TOOLKIT_NO_CPR="1",
                COLUMNS="200")
            os.execvp("pgcli", ["pgcli", "-w", "-h", env("HOST"), "-p", env("PORT"), "-U", user, "-d", database])

    def expect(self, *wanted):
        """Whether all texts come within a minute, and what came."""
        seen, deadline = "", time.monotonic() + 60
        while not all(w in seen for w in wanted):
            readable, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            try:
                data = os.read(self.fd, 65536) if readable else b""
            except OSError:  # pgcli has ended
                data = b""
            if not data:
                return False, seen
            seen = CONTROL.sub("", seen + data.decode(errors="replace"))
        return True, seen

    def run(self, line, *wanted):
        os.write(self.fd, line.encode() + b"\r")
        return self.expect(*wanted)


def check(name, outcome):
    found, seen = outcome
    print(f"ok {name}" if found else f"FAIL {name}: {' '.join(seen[-1500:].split())}", flush=True)


os.makedirs(os.path.expanduser("~/.config/pgcli"))
with open(os.path.expanduser("~/.config/pgcli/config"), "w") as f:
    f.write("[main]\nless_chatty = True\nenable_pager = False\ndestructive_warning = off\nmulti_line = False\ntable_format = csv\nprompt = ready>\n")

check("refused", Terminal(env("USER"), "orders").expect("no live grant"))
conn = Terminal(env("USER"), "hourgate")
check("catalog", conn.expect("ready>"))  # its completion has asked the catalog by then, or asks meanwhile
check("access", conn.run("SHOW ACCESS;", "can ask", "READ_WRITE"))
check("request", conn.run("REQUEST READ_WRITE ON orders FOR '1 hour' REASON 'it''s late';", '"pending"', "it's late\""))
check("own", conn.run("APPROVE 1;", "nobody decides their own request"))
check("approve", Terminal(env("APPROVER"), "hourgate").run("APPROVE 1;", '"active"'))
check("let-in", Terminal(env("USER"), "orders").run("SELECT 'there are ' || count(*) FROM customers;", "there are 100"))
check("transaction", conn.run("BEGIN;", "BEGIN"))
check("transaction", conn.run("SHOW REQUESTS;", '"active"'))
check("transaction", conn.run("COMMIT;", "COMMIT"))
check("end", conn.run("END 1;", "ended by owner"))
