// What the checks share. HUBD_URL is the endpoint (http://host:port/capnweb).
import test from "node:test";
import assert from "node:assert/strict";
import WebSocket from "ws";

globalThis.WebSocket = WebSocket; // the library looks for the global on Node 20
const { newWebSocketRpcSession, newHttpBatchRpcSession } = await import("capnweb");

export const url = process.env.HUBD_URL;
export const wsURL = url.replace(/^http/, "ws");

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

// over runs body with a session of its own.
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

export async function until(what, probe) {
  for (let i = 0; i < 1000; i++) {
    if (await probe()) return;
    await new Promise((r) => setTimeout(r, 20));
  }
  assert.fail(`${what}: not in time`);
}

export const batch = () => newHttpBatchRpcSession(url);
