// What the checks share. HUBD_URL is the endpoint (http://host:port/capnweb).
// Where HUBD_UNIX names a socket, all goes through it instead of the network.
import test from "node:test";
import assert from "node:assert/strict";
import http from "node:http";
import WebSocket from "ws";

export const url = process.env.HUBD_URL;
export const unix = process.env.HUBD_UNIX;
export const wsURL = unix ? `ws+unix://${unix}:${new URL(url).pathname}` : url.replace(/^http/, "ws");

globalThis.WebSocket = WebSocket; // the library looks for the global on Node 20
if (unix) {
  globalThis.fetch = throughSocket; // with which the library sends its batches
}
const { newWebSocketRpcSession, newHttpBatchRpcSession } = await import("capnweb");

// throughSocket is as much of fetch as the library and the checks need.
function throughSocket(address, { method = "GET", headers = {}, body = "" } = {}) {
  return new Promise((resolve, reject) => {
    const request = http.request(address, { socketPath: unix, method, headers }, (response) => {
      const parts = [];
      response.on("data", (part) => parts.push(part));
      response.on("error", reject);
      response.on("end", () => resolve(new Response(Buffer.concat(parts), { status: response.statusCode, statusText: response.statusMessage })));
    });
    request.once("error", reject);
    request.end(body);
  });
}

// open returns a WebSocket that is open.
export async function open(options) {
  const socket = new WebSocket(wsURL, options);
  await new Promise((resolve, reject) => {
    socket.once("open", resolve);
    socket.once("error", reject);
  });
  return socket;
}

export async function session(main, options) {
  const socket = await open(options);
  const closed = new Promise((resolve) => socket.once("close", (code, reason) => resolve({ code, reason: String(reason) })));
  const api = newWebSocketRpcSession(socket, main);
  return { api, socket, closed, async end() { socket.close(); await closed; } };
}

export const batch = () => newHttpBatchRpcSession(url);

// over runs body with a WebSocket session of its own.
export function over(name, body, main) {
  test(name, { timeout: 30000 }, async () => {
    const s = await session(main?.());
    try {
      await body(s.api, s);
    } finally {
      await s.end();
    }
  });
}

// both runs body over WebSocket and in batches. There each use of api is a
// batch of its own, and together() begins one for calls that belong together:
// nothing may be asked of it after the first answer.
export function both(name, body) {
  over(name, (api) => body(api, () => api));
  test(`${name}, in batches`, { timeout: 30000 }, () => body(new Proxy({}, { get: (_, member) => batch()[member] }), batch));
}

export async function until(what, probe) {
  for (let i = 0; i < 1000; i++) {
    if (await probe()) return;
    await new Promise((r) => setTimeout(r, 20));
  }
  assert.fail(`${what}: not in time`);
}
