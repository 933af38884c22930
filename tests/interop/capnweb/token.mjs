// What a client does at a hub that asks for tokens. HUBD_TOKEN is a good one;
// HUBD_TLS, with its certificate in HUBD_CA, the same hub behind TLS.
import test from "node:test";
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import WebSocket from "ws";
import { newWebSocketRpcSession } from "capnweb";
import { batch, over, session, until } from "./harness.mjs";

const token = process.env.HUBD_TOKEN;
const unauthenticated = (e) => e instanceof Error && e.code === "unauthenticated" && e.ran === "no";

over("without a token next to nothing is allowed", async (api) => {
  await assert.rejects(async () => await api.math.add(1, 2), unauthenticated);
  await assert.rejects(async () => await api.state.put("token/a", 1), unauthenticated);
  await assert.rejects(async () => await api.authenticate("hubd_wrong"), unauthenticated);
});

over("authenticate returns the object that may do more", async (api) => {
  const mine = api.authenticate(token); // not awaited: one round trip
  assert.equal(await mine.math.add(1, 2), 3);
  const me = await mine;
  assert.equal(await me.echo("x"), "x");
  assert.ok((await me.state.put("token/a", 1)).revision > 0);
  const counter = await me.demo.counter(1);
  assert.equal(await counter.increment(1), 2);
  const add = await me.math.add;
  assert.equal(await add(2, 2), 4);
  await assert.rejects(async () => await me.hub.cancel(1), (e) => e.code === "permission_denied" && e.ran === "no"); // the token has no scope admin
  await assert.rejects(async () => await api.math.add(1, 2), unauthenticated); // the session stays who it was
  me[Symbol.dispose]();
  await assert.rejects(async () => await me.math.add(1, 2));
});

over("what an object permits does not leak into the session", async (api) => {
  const me = await api.authenticate(token);
  const events = [];
  const watch = await me.state.watch("token/live", (e) => { events.push(e.value); });
  await me.state.put("token/live", 7);
  await until("the event", () => events.length === 1);
  assert.deepEqual(events, [7]);
  await assert.rejects(async () => await api.state.get("token/live"), unauthenticated);
  watch[Symbol.dispose]();
  const range = await me.demo.range(2).map((x) => me.math.add(x, 1));
  assert.deepEqual(range, [1, 2]);
  await assert.rejects(async () => await me.demo.range(2).map((x) => api.math.add(x, 1)), unauthenticated);
});

test("a token in the head of the upgrade is for the whole session", { timeout: 30000 }, async () => {
  const s = await session(undefined, { headers: { authorization: `Bearer ${token}` } });
  assert.equal(await s.api.math.add(1, 2), 3);
  await s.end();
  await assert.rejects(session(undefined, { headers: { authorization: "Bearer hubd_wrong" } }), /401/);
});

test("a batch authenticates and calls at once", { timeout: 30000 }, async () => {
  assert.equal(await batch().authenticate(token).math.add(3, 4), 7);
  await assert.rejects(async () => await batch().math.add(3, 4), unauthenticated);
});

test("wss", { timeout: 30000 }, async () => {
  const socket = new WebSocket(process.env.HUBD_TLS, { ca: readFileSync(process.env.HUBD_CA) });
  await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
  const api = newWebSocketRpcSession(socket);
  const me = api.authenticate(token);
  assert.equal(await me.math.add(1, 2), 3);
  const large = "x".repeat(3 << 20);
  assert.equal(await me.echo(large), large);
  const counter = me.demo.counter(0);
  const got = await Promise.all(Array.from({ length: 1000 }, () => counter.increment(1)));
  assert.deepEqual(got, Array.from({ length: 1000 }, (_, i) => i + 1));
  socket.close();
});
