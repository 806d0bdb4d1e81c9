"""A mail server for one mailbox, over STARTTLS and with a password. It puts off the first mail, as those do that greylist, and
prints the others, one a line, in JSON."""

import json
import ssl
import sys
import threading

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword


class Mailbox:
    put_off = True

    async def handle_DATA(self, server, session, envelope):
        if self.put_off:
            self.put_off = False
            return "451 4.7.1 Greylisted, try again"
        print(json.dumps({
            "from": envelope.mail_from, "to": envelope.rcpt_tos, "data": envelope.content.decode("ascii"), "tls": session.ssl is not None,
            "user": session.auth_data.login.decode(),
        }), flush=True)
        return "250 2.0.0 Taken"


def authenticate(server, session, envelope, mechanism, data):
    ok = isinstance(data, LoginPassword) and data.login == b"hourgate" and data.password == b"s3cret mail"
    return AuthResult(success=ok, handled=False, auth_data=data)


class Server(Controller):
    def factory(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[2], sys.argv[3])
        return SMTP(
            self.handler, tls_context=context, require_starttls=True, auth_required=True, authenticator=authenticate, hostname="localhost")


server = Server(Mailbox(), hostname="localhost", port=int(sys.argv[1]))
server.start()
print("ready", flush=True)
threading.Event().wait()
