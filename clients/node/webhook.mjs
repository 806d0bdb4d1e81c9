// A receiver of webhooks that believes nothing but what Standard Webhooks' own library has verified. It fails the first
// time. It prints the port that it listens on, and then a line for each message.
import { createServer } from "node:http";
import { createRequire } from "node:module";

const require = createRequire(process.env.HOURGATE_NODE_MODULES + "/");
const { Webhook } = require("standardwebhooks");
const known = new Webhook(process.env.HOURGATE_WEBHOOK_SECRET);
const stranger = new Webhook("whsec_" + Buffer.alloc(32, 7).toString("base64"));

let first = true;
const server = createServer(async (request, response) => {
  let body = "";
  for await (const chunk of request) body += chunk;
  let line;
  try {
    const message = known.verify(body, request.headers);
    line = `${message.type} ${message.data.request ?? message.data.lock} ${Date.now() - Date.parse(message.timestamp) < 60_000}`;
    for (const [what, attempt] of Object.entries({
      "another secret": () => stranger.verify(body, request.headers),
      "another body": () => known.verify(body + " ", request.headers),
      "another id": () => known.verify(body, { ...request.headers, "webhook-id": "msg_x" }),
      "a later time": () => known.verify(body, { ...request.headers, "webhook-timestamp": String(Number(request.headers["webhook-timestamp"]) + 1) }),
    })) {
      try {
        attempt();
        line = `FAIL: ${what} was verified`;
      } catch {
        // as it has to be
      }
    }
  } catch (error) {
    line = `FAIL: ${error}`;
  }
  response.statusCode = first ? 503 : 204;
  first = false;
  response.end();
  console.log(request.headers["webhook-id"], line);
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
