// What only a whole daemon has: its metrics, and its rules about who may
// connect. HUBD_PID is its process.
import test from "node:test";
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import http from "node:http";
import WebSocket from "ws";
import { RpcSession, RpcTarget } from "capnweb";
import { open, over, session, unix, until, url, wsURL } from "./harness.mjs";

// metric returns the sum of the series whose text begins like that.
async function metric(name) {
  const text = await (await fetch(new URL("/metrics", url))).text();
  const lines = text.split("\n").filter((l) => l.startsWith(name));
  assert.ok(lines.length > 0, `no metric ${name}`);
  return lines.reduce((sum, l) => sum + Number(l.slice(l.lastIndexOf(" "))), 0);
}

const exports_ = () => metric('hubd_capnweb_entries{table="exports"}');
const imports_ = () => metric('hubd_capnweb_entries{table="imports"}');

function memory() {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${process.env.HUBD_PID}/status`, "utf8"))[1]) * 1024;
}

test("ten thousand counters leave tables, memory and goroutines where they were", { timeout: 120000 }, async () => {
  const s = await session();
  const rounds = async (n) => {
    for (let round = 0; round < n; round++) {
      const list = await Promise.all(Array.from({ length: 1000 }, (_, i) => s.api.demo.counter(i)));
      assert.equal(await list[7].increment(1), 8);
      for (const c of list) c[Symbol.dispose]();
    }
    await until("releases", async () => (await exports_()) === 0);
  };
  await rounds(3); // pools and heap take their size
  const before = { goroutines: await metric("go_goroutines"), memory: memory() };
  await rounds(10);
  assert.equal(await imports_(), 0);
  await until("goroutines", async () => (await metric("go_goroutines")) <= before.goroutines + 2);
  // A ceiling only: garbage that was not collected yet is there as well. What
  // is live is measured in the daemon's own language (TestManyCountersLeaveNothing).
  assert.ok(memory() < before.memory + (96 << 20), `${before.memory} bytes became ${memory()}`);
  await s.end();
});

// counted opens a session whose own tables can be looked at.
async function counted(main) {
  const socket = await open();
  const arrived = [];
  let wake, broken;
  socket.on("message", (data) => { arrived.push(String(data)); wake?.(); });
  socket.on("close", () => { broken = new Error("closed"); wake?.(); });
  const session = new RpcSession({
    async send(message) { socket.send(message); },
    async receive() {
      while (arrived.length === 0) {
        if (broken) throw broken;
        await new Promise((resolve) => { wake = resolve; });
      }
      return arrived.shift();
    },
    abort() { socket.close(); },
  }, main);
  return { session, api: session.getRemoteMain(), socket };
}

test("the client's tables are empty, too", { timeout: 60000 }, async () => {
  class Target extends RpcTarget { twice(x) { return 2 * x; } }
  const { session, api, socket } = await counted();
  const before = session.getStats();
  for (let i = 0; i < 50; i++) {
    assert.equal(await api.demo.callback(() => new Target(), 2), 2);
    const back = await api.echo({ t: new Target(), list: [() => 1, new Target()] });
    assert.equal(await back.t.twice(4), 8);
    back[Symbol.dispose]();
    const counter = await api.demo.counter(1);
    counter[Symbol.dispose]();
    const watch = await api.state.watch("interop/counted", () => new Target());
    await api.state.put("interop/counted", i);
    watch[Symbol.dispose]();
    for await (const chunk of await api.echo(new ReadableStream({ start(c) { c.enqueue({ t: new Target() }); c.close(); } }))) chunk[Symbol.dispose]?.();
  }
  await until("both sides of the tables", async () => {
    const now = session.getStats();
    return now.imports === before.imports && now.exports === before.exports && (await exports_()) === 0 && (await imports_()) === 0;
  });
  socket.close();
});

test("functions, streams and maps leave nothing", { timeout: 60000 }, async () => {
  const s = await session();
  class Target extends RpcTarget { twice(x) { return 2 * x; } }
  for (let i = 0; i < 200; i++) {
    await s.api.demo.callback(() => new Target(), 2); // what callbacks return is given back
    const back = await s.api.echo({ t: new Target(), f: () => 1 });
    back[Symbol.dispose]();
    const stream = await s.api.echo(new ReadableStream({ start(c) { c.enqueue({ t: new Target() }); c.enqueue(() => 2); c.close(); } }));
    for await (const chunk of stream) chunk[Symbol.dispose]?.();
    await assert.rejects(async () => await s.api.demo.sum(new ReadableStream({ start(c) { c.enqueue(new Target()); c.close(); } })));
    const range = s.api.demo.range(3);
    await range.map((x) => s.api.math.add(x, 1));
    range[Symbol.dispose](); // a result that is not awaited itself is the client's to dispose
  }
  await until("tables", async () => (await exports_()) === 0 && (await imports_()) === 0);
  await s.end();
});

test("a session that breaks off takes everything along", { timeout: 60000 }, async () => {
  const goroutines = await metric("go_goroutines");
  for (let i = 0; i < 50; i++) {
    const s = await session();
    const silent = (p) => p.then(() => {}, () => {});
    silent(s.api.demo.sleep(100));
    silent(s.api.demo.counter(1));
    silent(s.api.demo.count(100000, 0.01));
    silent(s.api.state.watch("interop/breaks-off", () => {}));
    await s.api.echo(1);
    s.socket.terminate();
    await s.closed;
  }
  await until("tables", async () => (await exports_()) === 0 && (await imports_()) === 0);
  await until("calls", async () => (await metric('hubd_calls_in_flight{protocol="capnweb"}')) === 0);
  await until("goroutines", async () => (await metric("go_goroutines")) <= goroutines + 4);
});

// refused tries to open a WebSocket and returns the status that it got instead, or 101.
function attempt(options) {
  return new Promise((resolve) => {
    const socket = new WebSocket(wsURL, options);
    socket.once("open", () => { socket.close(); resolve(101); });
    socket.once("unexpected-response", (_, response) => resolve(response.statusCode));
    socket.once("error", () => resolve(0));
  });
}

function post(headers) {
  return new Promise((resolve, reject) => {
    const request = http.request(url, { method: "POST", headers, socketPath: unix }, (response) => {
      response.resume();
      resolve(response.statusCode);
    });
    request.once("error", reject);
    request.end("");
  });
}

test("origin and host are looked at before anything else", { timeout: 30000 }, async () => {
  const { host } = new URL(url);
  for (const [headers, upgrade, batched] of [
    [{}, 101, 200],
    [{ origin: `http://${host}` }, 101, 200],
    [{ origin: "https://app.example" }, 101, 200], // on the list
    [{ origin: "https://evil.example" }, 403, 403],
    [{ origin: "null" }, 403, 403],
    [{ origin: "http://127.0.0.1:1" }, 403, 403], // another port is another origin
    [{ origin: `http://${host}.evil.example` }, 403, 403],
    [{ "sec-fetch-site": "cross-site" }, 403, 403],
    [{ host: "evil.example" }, 421, 421], // a name that was made to point here
    [{ host: `evil.example:${new URL(url).port}`, origin: `http://evil.example:${new URL(url).port}` }, 421, 421],
  ]) {
    const expected = unix ? [101, 200] : [upgrade, batched]; // no page reaches a Unix socket
    assert.deepEqual([await attempt({ headers }), await post(headers)], expected, JSON.stringify(headers));
  }
});

over("who has no token is no administrator, the user of the hub is", async (api) => {
  if (unix) return assert.equal((await api.hub.cancel(1)).cancelled, false);
  await assert.rejects(async () => await api.hub.cancel(1), (e) => /permission_denied|unauthenticated/.test(e.code) && e.ran === "no");
});

test("sessions are opened, followed, typed into and resumed", { timeout: 60000 }, async () => {
  const name = `interop-${process.pid}`;
  const producer = await session();
  const follower = await session();
  assert.deepEqual(await producer.api.session.open(name, "Interop"), { session: name, seq: 0 });
  await producer.api.session.publish(name, { type: "output", rendered: "one" });

  const input = (await producer.api.session.input(name)).getReader();
  const events = (await follower.api.session.follow(name, null, "interactive")).getReader();
  assert.equal((await events.read()).value.rendered, "one");
  await producer.api.session.publish(name, { type: "output", rendered: "two" });
  assert.equal((await events.read()).value.rendered, "two");

  assert.deepEqual(await follower.api.session.send(name, "ls\r"), { ok: true });
  assert.equal((await input.read()).value.text, "ls\r");
  const typed = (await events.read()).value;
  assert.deepEqual([typed.type, typed.text, typed.seq], ["input", "ls\r", 3]);
  assert.deepEqual(await follower.api.session.resize(name, 100, 30), { ok: true });
  const { type, cols, rows } = (await input.read()).value;
  assert.deepEqual([type, cols, rows], ["resize", 100, 30]);

  // Who comes back goes on behind what it saw.
  await follower.end();
  const again = await session();
  const rest = (await again.api.session.follow(name, 2)).getReader();
  assert.equal((await rest.read()).value.seq, 3);
  await producer.api.session.publish(name, { type: "output", rendered: "four" });
  assert.equal((await rest.read()).value.rendered, "four");
  assert.deepEqual(await producer.api.session.close(name), { ok: true });
  assert.equal((await rest.read()).done, true);
  assert.equal((await input.read()).done, true);
  await Promise.all([again.end(), producer.end()]);
});
