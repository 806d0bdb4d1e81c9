"""What the clients in Python share: the surroundings, and how a check is reported."""

import contextlib
import os

HOST = os.environ["HOURGATE_HOST"]
PORT = int(os.environ["HOURGATE_PORT"])
CA = os.environ["HOURGATE_CA"]
DATABASE = os.environ["HOURGATE_DATABASE"]
PASSWORD = os.environ["HOURGATE_PASSWORD"]
USER = os.environ["HOURGATE_USER"]
EXPIRED_USER = os.environ["HOURGATE_EXPIRED_USER"]
ENDING_USER = os.environ["HOURGATE_ENDING_USER"]

GREETING = 'Grüße, "naïve" ☃'


def say(line):
    print(line, flush=True)


@contextlib.contextmanager
def check(name, remark=""):
    """Reports the block as one check: ok, or FAIL with the exception. The remark goes with ok."""
    try:
        yield
    except Exception as e:
        say(f"FAIL {name}: {type(e).__name__}: {' '.join(str(e).split())}")
    else:
        say(f"ok {name}" + (f": {remark}" if remark else ""))


@contextlib.contextmanager
def raises(kind):
    """Runs a block that must raise an exception of a kind, and hands that on in the list."""
    caught = []
    try:
        yield caught
    except kind as e:
        caught.append(e)
    else:
        raise AssertionError(f"no {kind.__name__}")


def equal(got, want):
    if got != want:
        raise AssertionError(f"got {got!r}, want {want!r}")


def contains(text, *wanted):
    for want in wanted:
        if want not in text:
            raise AssertionError(f"no {want!r} in {text!r}")


def is_role(name):
    """The session runs as a role that was made for the grant."""
    if not name.startswith("hg_alice_work_"):
        raise AssertionError(f"the session runs as {name}")


def is_wrong_password(text):
    contains(text, f'password authentication failed for user "{USER}"')


# What somebody is told whose grant has ended: message, DETAIL and HINT.
DENIAL = (f'no live grant for "{DATABASE}"', "last-week", "connect to: invoices")
