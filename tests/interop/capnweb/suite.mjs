// Drives a hub with the unmodified Cap'n Web library, over WebSocket and in
// HTTP batches, on the network or a Unix socket (see harness.mjs). HUBD_EXTRA=1
// adds what only the table of capnweb_test.go has.
import test from "node:test";
import assert from "node:assert/strict";
import { RpcTarget, RpcStub } from "capnweb";
import { batch, both, open, over, session, until, url } from "./harness.mjs";

const extra = process.env.HUBD_EXTRA === "1";

both("calls, nested names, extra arguments", async (api) => {
  assert.equal(await api.echo("hello"), "hello");
  assert.equal(await api.math.add(1, 2), 3);
  assert.equal(await api.math.add(1, 2, 99), 3);
  assert.equal(await api.echo(), undefined);
});

both("every kind of value survives echo", async (api) => {
  const big = "ü漢😀\u2028".repeat(50000);
  const values = [
    null, true, false, 0, -1.5, 1e21, 1e-7, 2 ** 53, -(2 ** 60), "", "é漢😀\n\"\\\u0000", big,
    [], [[]], [1, [2, [3]]], {}, { a: [], b: { c: [{}] } }, { u: undefined }, undefined,
    NaN, Infinity, -Infinity, 12345678901234567890n, -5n, 10n ** 400n,
    new Date(1749342170815), new Date(-1), new Uint8Array([0, 1, 254, 255]), new Uint8Array(0),
  ];
  // On Node the library hands byte strings out as Buffers.
  const plain = (v) => (Buffer.isBuffer(v) ? new Uint8Array(v) : v);
  for (const v of values) assert.deepEqual(plain(await api.echo(v)), v);
  assert.deepEqual((await api.echo(values)).map(plain), values);
  assert.ok(Number.isNaN((await api.echo(new Date(NaN))).getTime()));
  assert.deepEqual(await api.echo(new Float64Array([1.5, -2])), new Float64Array([1.5, -2]));
  assert.deepEqual(await api.echo(new BigInt64Array([1n, -2n])), new BigInt64Array([1n, -2n]));
  assert.deepEqual(await api.echo(new Uint8Array([1, 2]).buffer), new Uint8Array([1, 2]).buffer);
  const u = await api.echo(new URL("https://example.com/a?b=1#c"));
  assert.ok(u instanceof URL);
  assert.equal(u.href, "https://example.com/a?b=1#c");
  const h = await api.echo(new Headers([["a", "1"], ["b", "2"]]));
  assert.deepEqual([...h], [["a", "1"], ["b", "2"]]);
  const e = await api.echo(Object.assign(new RangeError("as value"), { code: 5 }));
  assert.ok(e instanceof RangeError);
  assert.deepEqual([e.message, e.code], ["as value", 5]);
  const withCause = await api.echo(new Error("outer", { cause: new TypeError("inner") }));
  assert.ok(withCause.cause instanceof TypeError);
  const agg = await api.echo(new AggregateError([new Error("a")], "agg"));
  assert.equal(agg.errors[0].message, "a");
});

both("odd member names are dropped", async (api) => {
  const v = await api.echo(JSON.parse('{"__proto__":1,"constructor":2,"toJSON":3,"ok":4}'));
  assert.deepEqual(Object.keys(v), ["ok"]);
});

over("blobs, requests and responses", async (api) => {
  const blob = await api.echo(new Blob(["hello ", "blob"], { type: "text/plain" }));
  assert.equal(blob.type, "text/plain");
  assert.equal(await blob.text(), "hello blob");
  const large = await api.echo(new Blob([new Uint8Array(1 << 20).fill(7)]));
  assert.equal(large.size, 1 << 20);
  const req = await api.echo(new Request("http://x.test/", { method: "POST", headers: { a: "b" }, body: "body" }));
  assert.deepEqual([req.url, req.method, req.headers.get("a"), await req.text()], ["http://x.test/", "POST", "b", "body"]);
  const resp = await api.echo(new Response("nope", { status: 404, statusText: "Nope", headers: { x: "y" } }));
  assert.deepEqual([resp.status, resp.statusText, resp.headers.get("x"), await resp.text()], [404, "Nope", "y", "nope"]);
});

both("errors", async (api) => {
  await assert.rejects(async () => await api.demo.fail("on purpose"), (e) => e instanceof Error && e.name === "Error" && e.message === "on purpose" && !("code" in e));
  await assert.rejects(async () => await api.nope(1), (e) => e instanceof TypeError && e.message === "'nope' is not a function." && e.code === "not_found" && e.ran === "no");
  await assert.rejects(async () => await api.demo.nope.deeper(), TypeError);
  await assert.rejects(async () => await api.demo.sleep("x"), (e) => e instanceof TypeError && e.code === "invalid_params");
  await assert.rejects(async () => await api.math.add(1), TypeError);
  await assert.rejects(async () => await api.demo.callback(5, 1), TypeError);
  assert.equal(await api.nope, undefined);
  assert.equal(await api.demo.nope, undefined);
  await assert.rejects(async () => await api.nope.x, /Cannot read properties of undefined/);
  assert.equal(await api.echo("still there"), "still there");
});

both("pipelining", async (_, together) => {
  let api = together();
  const user = api.demo.authenticate("cookie-123");
  const [profile, { name }] = await Promise.all([api.demo.getUserProfile(user.id), user]);
  assert.deepEqual([profile.id, name], ["u_1", "Ada Lovelace"]);
  api = together();
  const bad = api.demo.authenticate("wrong");
  await assert.rejects(async () => await api.demo.getUserProfile(bad.id), /invalid session/);
  api = together();
  assert.equal(await api.math.add(api.math.add(1, 2), api.math.add(3, 4)), 10);
  api = together();
  let chain = api.math.add(0, 1);
  for (let i = 0; i < 9; i++) chain = api.math.add(chain, 1);
  assert.equal(await chain, 10);
  assert.equal(await together().echo({ a: { b: "deep" } }).a.b, "deep");
});

both("properties, arrays and calls on results, all before the first answer", async (_, together) => {
  let api = together();
  const nested = api.echo({ list: [1, 2, 3], inner: { name: "x", deep: { n: 4 } } });
  const got = await Promise.all([
    nested.inner.name, nested.inner.deep.n, api.math.add(nested.inner.deep.n, 1), nested.nope, nested.list,
    api.echo(nested.list), api.echo([nested.inner.name, { n: nested.inner.deep.n }]), nested.list.map((x) => api.math.add(x, nested.inner.deep.n)),
    assert.rejects(async () => await nested.inner.name.call(), TypeError),
  ]);
  assert.deepEqual(got.slice(0, -1), ["x", 4, 5, undefined, [1, 2, 3], [1, 2, 3], ["x", { n: 4 }], [5, 6, 7]]);
  api = together();
  assert.equal(await api.demo.sum(api.demo.range(4)), 6); // a promise of an array as an argument
  const counter = together().demo.counter(10);
  assert.deepEqual(await Promise.all([counter.increment(1), counter.value(), counter.increment(counter.value())]), [11, 11, 22]);
  api = together();
  assert.equal(await api.echo({ counter: api.demo.counter(3) }).counter.increment(1), 4);
});

over("a method read as a property is a function", async (api) => {
  const add = await api.math.add;
  assert.equal(await add(2, 3), 5);
  const maths = await api.math;
  assert.equal(await maths.add(3, 4), 7);
  assert.equal(await api.demo.callback(add, 0), 0);
});

over("results that are not awaited", async (api) => {
  const c = await api.demo.counter(0);
  for (let i = 0; i < 5; i++) c.increment(1);
  assert.equal(await c.value(), 5);
});

both("a thousand increments in order", async (_, together) => {
  const c = together().demo.counter(0); // not even awaited
  const got = await Promise.all(Array.from({ length: 1000 }, () => c.increment(1)));
  assert.deepEqual(got, Array.from({ length: 1000 }, (_, i) => i + 1));
});

over("a sleeping call delays nobody", async (api) => {
  const slow = api.demo.sleep(1);
  const began = performance.now();
  assert.equal(await api.echo(1), 1);
  assert.ok(performance.now() - began < 900);
  assert.equal(await slow, 1);
});

over("functions as arguments", async (api) => {
  const seen = [];
  assert.equal(await api.demo.callback((i) => { seen.push(i); }, 5), 5);
  assert.deepEqual(seen, [0, 1, 2, 3, 4]);
  await assert.rejects(async () => await api.demo.callback(() => { throw new RangeError("from the client"); }, 2),
    (e) => e instanceof RangeError && e.message === "from the client");
  const inOrder = [];
  await api.demo.callback(async (i) => {
    await new Promise((r) => setTimeout(r, 5 - i));
    inOrder.push(i);
  }, 4);
  assert.deepEqual(inOrder, [0, 1, 2, 3]);
});

over("functions come back and are released", async (api) => {
  let disposed = 0;
  class Target extends RpcTarget {
    twice(x) { return 2 * x; }
    [Symbol.dispose]() { disposed++; }
  }
  const back = await api.echo(new Target());
  assert.equal(await back.twice(21), 42);
  assert.equal(disposed, 0);
  back[Symbol.dispose]();
  await until("disposal", () => disposed === 1);
  const fn = await api.echo((x) => x + 1);
  assert.equal(await fn(1), 2);
});

class Client extends RpcTarget {
  greet(name) { return `hello ${name}`; }
  boom() { throw new TypeError("client failed"); }
}

over("the hub calls the client", async (api) => {
  assert.equal(await api.demo.callClient("greet", "hub"), "hello hub");
  await assert.rejects(async () => await api.demo.callClient("boom"), (e) => e instanceof TypeError && e.message === "client failed");
}, () => new Client());

over("capabilities", async (api) => {
  const c = await api.demo.counter(5);
  assert.equal(await c.increment(2), 7);
  assert.equal(await c.increment(), 8);
  assert.equal(await c.value(), 8);
  await assert.rejects(async () => await c.nope(), TypeError);
  assert.equal(await c.nope, undefined);
  const same = await api.echo(c);
  assert.equal(await same.increment(1), 9);
  const dup = c.dup();
  c[Symbol.dispose]();
  assert.equal(await dup.value(), 9);
});

test("capabilities cross connections", { timeout: 30000 }, async () => {
  // One client's function is kept by the hub (a watch) and called because of another client.
  const a = await session();
  const b = await session();
  const events = [];
  const key = `interop/${Date.now()}`;
  const watch = await a.api.state.watch(key, (e) => { events.push(e); });
  for (let i = 0; i < 5; i++) await b.api.state.put(key, { n: i });
  await until("events", () => events.length === 5);
  assert.deepEqual(events.map((e) => e.value.n), [0, 1, 2, 3, 4]);
  watch[Symbol.dispose]();
  await a.api.echo(1); // the release has been read
  await b.api.state.put(key, { n: 99 });
  await b.api.echo(1);
  await a.api.echo(1);
  assert.equal(events.length, 5);
  await a.end();
  await b.end();
});

test("an object of one connection serves another", { timeout: 30000 }, async () => {
  // The counter is the hub's, reached by one connection; the function is the
  // client's. Both are handed to the other connection, come back, and are called.
  const a = await session();
  const b = await session();
  const counter = await a.api.demo.counter(1);
  const there = await b.api.echo({ counter, twice: (x) => 2 * x });
  assert.equal(await there.counter.increment(1), 2);
  assert.equal(await there.twice(21), 42);
  assert.equal(await counter.value(), 2);
  assert.equal(await b.api.demo.callback(counter.increment, 3), 3); // increment(0), increment(1), increment(2)
  assert.equal(await counter.value(), 5);
  there[Symbol.dispose]();
  await a.end(); // its owner leaves
  await assert.rejects(async () => await counter.value());
  assert.equal(await b.api.echo("alive"), "alive");
  await b.end();
});

both("map runs on the hub", async (_, together) => {
  const mapped = async (call, f) => {
    const api = together();
    return await call(api).map((x) => f(x, api));
  };
  assert.deepEqual(await mapped((api) => api.demo.range(4), (x, api) => api.math.add(x, 10)), [10, 11, 12, 13]);
  assert.deepEqual(await mapped((api) => api.demo.range(3), (x, api) => ({ n: x, list: [x, api.math.add(x, x)] })),
    [{ n: 0, list: [0, 0] }, { n: 1, list: [1, 2] }, { n: 2, list: [2, 4] }]);
  for (const [from, to] of [[null, null], [undefined, undefined], [5, 6]]) {
    assert.equal(await mapped((api) => api.echo(from), (x, api) => api.math.add(x, 1)), to);
  }
  assert.deepEqual(await mapped((api) => api.echo([[1, 2], [3]]), (row, api) => row.map((x) => api.math.add(x, 1))), [[2, 3], [4]]);
  assert.deepEqual(await mapped((api) => api.echo([{ id: 1 }, { id: 2 }]), (x) => x.id), [1, 2]);
  await assert.rejects(mapped((api) => api.demo.range(2), (x, api) => api.demo.fail("in map")), /in map/);
});

over("a map calls what it captured of the client", async (api) => {
  const seen = [];
  const note = new RpcStub((x) => { seen.push(x); return x; });
  assert.deepEqual(await api.demo.range(3).map((x) => note(x)), [0, 1, 2]);
  assert.deepEqual(seen.sort(), [0, 1, 2]);
});

over("streams from the hub", async (api) => {
  const got = [];
  for await (const x of await api.demo.count(500)) got.push(x);
  assert.deepEqual(got, Array.from({ length: 500 }, (_, i) => i));
  const r = await api.demo.count(100000, 0);
  const reader = r.getReader();
  for (let i = 0; i < 10; i++) assert.equal((await reader.read()).value, i);
  await reader.cancel(new Error("enough"));
  assert.equal(await api.echo("alive"), "alive");
});

over("a stream that is not read waits in the hub", async (api, { socket }) => {
  const r = await api.demo.count(1000000);
  const reader = r.getReader();
  assert.equal((await reader.read()).value, 0);
  let last = -1;
  await until("the hub pauses", async () => {
    const now = socket._socket.bytesRead;
    await new Promise((r) => setTimeout(r, 100));
    const still = socket._socket.bytesRead === now && now === last;
    last = now;
    return still;
  });
  assert.ok(last < 4 << 20, `${last} bytes came although nobody reads`); // the whole is twenty times that
  assert.equal(await api.echo("calls pass it"), "calls pass it");
  for (let i = 1; i < 20000; i++) assert.equal((await reader.read()).value, i);
  await reader.cancel();
});

over("a stream that the hub does not read waits in the client", async (api) => {
  let pulled = 0;
  const piece = "x".repeat(1000);
  const endless = new ReadableStream({ pull(c) { pulled++; c.enqueue(piece); } }, { highWaterMark: 0 });
  const out = await api.demo.upper(endless); // what goes in comes out, and nobody takes it
  let last = -1;
  await until("the client pauses", async () => {
    const now = pulled;
    await new Promise((r) => setTimeout(r, 100));
    const still = pulled === now && now === last;
    last = now;
    return still;
  });
  assert.ok(pulled < 20000, `${pulled} chunks were sent although nobody reads`);
  await out.cancel();
});

over("streams to the hub", async (api) => {
  const source = (n) => new ReadableStream({
    start(c) { for (let i = 1; i <= n; i++) c.enqueue(i); c.close(); },
  });
  assert.equal(await api.demo.sum(source(3)), 6);
  assert.equal(await api.demo.sum(source(20000)), 200010000);
  assert.equal(await api.demo.sum([1, 2, 3]), 6);
  await assert.rejects(async () => await api.demo.sum(new ReadableStream({ start(c) { c.enqueue(1); c.error(new RangeError("source broke")); } })),
    /source broke/);
});

over("streams both ways, item by item", async (api) => {
  let feed;
  const out = await api.demo.upper(new ReadableStream({ start(c) { feed = c; } }));
  const reader = out.getReader();
  for (const word of ["one", "zwei", "gröser"]) {
    feed.enqueue(word);
    assert.equal((await reader.read()).value, word.toUpperCase());
  }
  feed.close();
  assert.equal((await reader.read()).done, true);
});

over("a stream comes back whole", async (api) => {
  const total = 3 << 20;
  let left = total;
  const back = await api.echo(new ReadableStream({
    pull(c) {
      if (left === 0) return c.close();
      const n = Math.min(left, 50000);
      left -= n;
      c.enqueue(new Uint8Array(n).fill(left & 255));
    },
  }));
  let got = 0;
  for await (const chunk of back) got += chunk.length;
  assert.equal(got, total);
});

over("writable streams pass through", async (api) => {
  const seen = [];
  const sink = new WritableStream({ write(x) { seen.push(x); }, close() { seen.push("closed"); } });
  const back = await api.echo(sink);
  const w = back.getWriter();
  await w.write("a");
  await w.write({ b: [1] });
  await w.close();
  assert.deepEqual(seen, ["a", { b: [1] }, "closed"]);
});

over("disposing a pending call cancels it", async (api) => {
  const p = api.demo.sleep(20);
  p.then(() => {}, () => {});
  p[Symbol.dispose]();
  assert.equal(await api.echo(1), 1);
  if (extra) await until("cancel", async () => (await api.test.running()) === 0);
});

over("pings are answered", async (api, { socket }) => {
  const pong = new Promise((resolve) => socket.once("pong", (data) => resolve(String(data))));
  socket.ping("are you there");
  assert.equal(await pong, "are you there");
  assert.equal(await api.echo(1), 1);
});

test("fragments, large messages and compression that is offered", { timeout: 30000 }, async () => {
  const socket = await open({ perMessageDeflate: true });
  assert.equal(socket.extensions, ""); // not taken
  const answers = [];
  const two = new Promise((resolve) => socket.on("message", (m) => { if (answers.push(String(m)) === 2) resolve(); }));
  socket.send('["push",["pipeline",0,["ec', { fin: false });
  socket.ping();
  socket.send('ho"],["frag', { fin: false });
  socket.send('ments"]]]', { fin: true });
  socket.send('["pull",1]');
  const large = "y".repeat(5 << 20);
  socket.send(`["push",["pipeline",0,["echo"],["${large}"]]]`);
  socket.send('["pull",2]');
  await two;
  assert.deepEqual(answers, ['["resolve",1,"fragments"]', `["resolve",2,"${large}"]`]);
  socket.close();
});

test("disposing the main stub closes with 3000", { timeout: 30000 }, async () => {
  const s = await session();
  await s.api.echo(1);
  s.api[Symbol.dispose]();
  assert.equal((await s.closed).code, 3000);
});

test("what breaks the protocol aborts", { timeout: 30000 }, async () => {
  for (const bad of ["hello", '["frobnicate"]', '["pull",77]', '["push",[1,2]]', "[".repeat(2000), '["push",["bigint","x"]]']) {
    const socket = await open();
    const messages = [];
    socket.on("message", (m) => messages.push(String(m)));
    socket.send(bad);
    const [code] = await new Promise((r) => socket.once("close", (...a) => r(a)));
    assert.equal(code, 3000, bad);
    assert.match(messages.at(-1), /^\["abort",\["error",/);
  }
  const socket = await open();
  socket.send(Buffer.from('["pull",1]'));
  const [code] = await new Promise((r) => socket.once("close", (...a) => r(a)));
  assert.equal(code, 3000);
});

test("batches", { timeout: 30000 }, async () => {
  {
    const api = batch();
    const ok = api.echo("fine");
    const bad = api.demo.fail("in a batch");
    const results = await Promise.allSettled([ok, bad]);
    assert.equal(results[0].value, "fine");
    assert.equal(results[1].reason.message, "in a batch");
  }
  assert.deepEqual(await batch().demo.count(4), [0, 1, 2, 3]); // a stream is an array here
  assert.equal((await fetch(url)).status, 405);
  assert.equal((await fetch(url, { method: "POST", body: "garbage" })).status, 400);
  const empty = await fetch(url, { method: "POST", body: "" });
  assert.deepEqual([empty.status, await empty.text()], [200, ""]);
});

if (extra) {
  over("results with references in them", async (api) => {
    const n = await api.demo.nested();
    assert.deepEqual(n.a.b, [{ c: 41 }, { c: 42 }]);
    assert.equal(await n.fn(21), 42);
    assert.equal(await n.counter.increment(1), 8);
    assert.equal(await api.demo.nested().fn(4), 8);
    const c = await api.demo.counter(5);
    assert.equal(await api.demo.useCounter(c, 3), 8);
    assert.equal(await api.demo.useCounter(api.demo.counter(1), 3), 4);
    class Mine extends RpcTarget { increment(by) { return by * 2; } }
    assert.equal(await api.demo.useCounter(new Mine(), 21), 42);
  });

  both("internal errors say nothing", async (api) => {
    await assert.rejects(async () => await api.demo.panic(), (e) => e.message === "internal error" && e.code === "internal" && !/secret|passwd/.test(e.stack));
    await assert.rejects(async () => await api.demo.conflict(), (e) => e.code === "conflict" && e.data.revision === 7);
    await assert.rejects(async () => await api.admin.only(), (e) => e.code === "permission_denied");
    await assert.rejects(async () => await api.demo.failType("RangeError"), RangeError);
  });

  over("a stream that fails", async (api) => {
    // A failing stream drops what was not read: that is how the platform has it.
    const r = (await api.demo.failingStream()).getReader();
    await assert.rejects(async () => { for (;;) await r.read(); }, /source broke/);
  });

  over("large chunks", async (api) => {
    let n = 0;
    for await (const chunk of await api.demo.bytes(50)) n += chunk.length;
    assert.equal(n, 50 * (100 << 10));
  });

  test("ten thousand counters leave nothing", { timeout: 60000 }, async () => {
    const s = await session();
    for (let round = 0; round < 10; round++) {
      const list = await Promise.all(Array.from({ length: 1000 }, (_, i) => s.api.demo.counter(i)));
      for (const c of list) c[Symbol.dispose]();
    }
    await until("release", async () => (await s.api.test.counters()) === 0);
    assert.deepEqual(await s.api.test.tables(), { exports: 1, imports: 0 }); // the result of this very call
    await s.end();
  });
}
