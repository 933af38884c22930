// Drives a hub with every kkrpc library there is, over every transport.
//
//	HUBD_WS      ws://host:port/kkrpc
//	HUBD_LINES   a Unix socket with protocols=kkrpc
//	HUBD_SOCKET  the hub's socket, for HUBCTL bridge
import test from "node:test";
import assert from "node:assert/strict";
import { libraries, transports, channel } from "./libraries.mjs";

const only = process.env.KKRPC_ONLY;

for (const lib of libraries) {
  for (const transport of Object.keys(transports)) {
    if (only && !`${lib.name} ${transport}`.includes(only)) continue;
    // run gives body a connection of its own.
    const run = (name, body, expose, wants) =>
      test(`${lib.name} over ${transport}: ${name}`, { timeout: 60000 }, async () => {
        const c = await channel(lib, transport, expose, wants);
        try {
          await body(c.hub, c);
        } finally {
          const left = await c.close();
          if (left) assert.deepEqual(left, { code: 0, stderr: "" }); // hubctl's end
        }
      });

    run("values come back", async (hub) => {
      const long = "grüße 漢字 😀 ".repeat(20000);
      for (const v of [null, true, 0, -1.5, 2 ** 53, 1e21, "", "é漢😀\n\"\\", [], [[1, [2]]], {}, { a: { b: [null] } }, long]) {
        assert.deepEqual(await hub.echo(v), v);
      }
      assert.equal((await hub.echo()) ?? null, null);
      assert.equal(await hub.math.add(1, 2, 3), 6);
      assert.equal(await hub.math.add(), 0);
      if (lib.bytes) {
        assert.deepEqual(await hub.echo(new Uint8Array([1, 2, 255])), new Uint8Array([1, 2, 255]));
      }
      assert.deepEqual(JSON.parse(JSON.stringify(await hub.echo({ d: new Date(0) }))), { d: "1970-01-01T00:00:00.000Z" });
    });

    run("calls run side by side", async (hub) => {
      const order = [];
      const note = (name) => (v) => (order.push(name), v);
      const slow = hub.demo.sleep(0.3).then(note("slow"));
      const quick = hub.math.add(1, 1).then(note("quick"));
      assert.deepEqual(await Promise.all([slow, quick]), [0.3, 2]);
      assert.deepEqual(order, ["quick", "slow"]);
      const many = await Promise.all(Array.from({ length: 300 }, (_, i) => hub.math.add(i, 1)));
      assert.deepEqual(many, Array.from({ length: 300 }, (_, i) => i + 1));
    });

    run("errors say what happened", async (hub) => {
      // Over a Unix socket nothing tells plain 0.0 to 0.3 from later versions.
      const lost = lib.textErrors && !lib.superjson && transport === "unix";
      const fails = async (promise, message, name) =>
        assert.rejects(promise, (e) => {
          assert.equal(e.message, lost ? "[object Object]" : message);
          if (!lib.textErrors) assert.equal(e.name, name);
          return true;
        });
      await fails(hub.demo.fail("kaput"), "kaput", "Error");
      await fails(hub.nope(), lib.compact ? "nope is not a function" : "Method nope is not a function", "TypeError");
      await fails(hub.no.such.method(1), lib.compact ? "Cannot access such on undefined" : "Method path no.such.method not found at no", "TypeError");
      await fails(hub.demo.sleep("long"), 'argument "seconds": expected a number, got a string', "TypeError");
      if (!lib.textErrors) {
        const e = await hub.nope().catch((e) => e);
        assert.deepEqual([e.code, e.ran], ["not_found", "no"]);
      }
      assert.equal(await hub.echo("on"), "on");
    });

    run("callbacks come in order, before the answer", async (hub) => {
      const got = [];
      const fn = (i) => got.push(i);
      assert.equal(await hub.demo.callback(fn, 3), 3);
      assert.deepEqual(got, [0, 1, 2]);
      assert.equal(await hub.demo.callback(fn, 2), 2); // the same function again
      assert.deepEqual(got, [0, 1, 2, 0, 1]);
      let n = 0;
      assert.equal(await hub.demo.callback((i) => assert.equal(i, n++), 5000), 5000);
      assert.equal(n, 5000);
      const two = await Promise.all([hub.demo.callback(() => n++, 100), hub.demo.callback(() => n++, 100)]);
      assert.deepEqual([two, n], [[100, 100], 5200]);
    });

    run("a watch calls back until the connection ends", async (hub) => {
      const key = `kkrpc/${lib.name}/${transport}/watch`;
      const events = [];
      let seen;
      const three = new Promise((resolve) => (seen = resolve));
      assert.equal(await hub.state.watch(key, (e) => events.push(e.value) === 3 && seen()), true);
      for (const v of [1, 2, 3]) await hub.state.put(key, v);
      await three;
      assert.deepEqual(events, [1, 2, 3]);
    });

    let again; // calls the hub that called
    run("the hub calls the client, which calls the hub", async (hub) => {
      again = (...n) => hub.math.add(...n);
      assert.equal(await hub.demo.callClient("hello", "me"), "hello me");
      assert.equal(await hub.demo.callClient("deep.twice", 21), 42);
      assert.equal(await hub.demo.callClient("again", 1, 2), 3);
      const error = await hub.demo.callClient("boom").catch((e) => e);
      if (!lib.textErrors) assert.deepEqual([error.name, error.message], ["RangeError", "client boom"]);
      else if (transport !== "unix" || lib.superjson) assert.match(error.message, /boom|object Object/);
      const both = await Promise.all([hub.demo.callClient("again", 1, 1), hub.math.add(5, 5), hub.demo.callClient("hello", "you")]);
      assert.deepEqual(both, [2, 10, "hello you"]);
    }, {
      hello: (n) => `hello ${n}`,
      deep: { twice: (n) => 2 * n },
      boom: () => { throw new RangeError("client boom"); },
      again: (...n) => again(...n),
    });

    if (lib.properties) {
      run("properties are the shared state", async (hub, { rpc }) => {
        const name = `${lib.name}-${transport}`.replace(/[^A-Za-z0-9-]/g, "_");
        assert.equal(await hub.state.put(name, { n: 1 }).then((r) => r.revision > 0), true);
        assert.deepEqual(await hub.state[name], { n: 1 });
        hub.state[name] = "dark"; // nothing to wait for, and yet it is what is read next
        assert.equal(await hub.state[name], "dark");
        assert.equal((await hub.state.get(name)).value, "dark");
        hub.state.nested[name] = [1, 2];
        assert.deepEqual(await hub.state.nested[name], [1, 2]);
        assert.deepEqual((await hub.state.get(`nested/${name}`)).value, [1, 2]);
        const absent = await hub.state.nobody_wrote_this.then((v) => ({ v }), (e) => ({ e }));
        if (lib.compact) assert.equal(absent.v, undefined);
        else assert.equal(absent.e.name, "NotFound");
        if (rpc.callConstructor) await assert.rejects(rpc.callConstructor("Counter", [5]), /Counter is not a constructor/);
        else await assert.rejects(new hub.Counter(5), /not a constructor/);
      });
    }

    if (lib.streams && transport !== "unix") {
      const streams = { streams: true };
      run("streams", async (hub) => {
        const got = [];
        for await (const v of await hub.demo.count(100)) got.push(v);
        assert.deepEqual(got, Array.from({ length: 100 }, (_, i) => i));
        for await (const v of await hub.demo.count(0)) assert.fail(`an item of none: ${v}`);
        let n = 0;
        for await (const v of await hub.demo.count(1e9)) {
          assert.equal(v, n++);
          if (n === 50) break;
        }
        assert.equal(await hub.echo("on"), "on");
        await assert.rejects(async () => {
          for await (const v of await hub.demo.upper(["a", 1])) assert.equal(v, "A");
        }, /expected a string/);
      }, {}, streams);
      if (lib.compact) {
        run("streams as arguments", async (hub) => {
          async function* numbers() { for (let i = 1; i <= 200; i++) yield i; }
          assert.equal(await hub.demo.sum(numbers()), 20100);
          async function* words() { yield "a"; yield "ü"; }
          const up = [];
          for await (const v of await hub.demo.upper(words())) up.push(v);
          assert.deepEqual(up, ["A", "Ü"]);
        }, {}, streams);
      }
    } else {
      run("streams are arrays", async (hub) => {
        assert.deepEqual(await hub.demo.count(5), [0, 1, 2, 3, 4]);
        assert.equal(await hub.demo.sum([1, 2, 3]), 6);
      });
    }
  }
}
