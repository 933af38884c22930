// Compares a hub with a server of the library itself: the same client, the
// same calls, one after the other, several rounds. HUBD_URL names the hub;
// HUBD_SOCKET, when given, its Unix socket, and then both are measured over
// Unix sockets, too. HUBD_PID lets it count the hub's processor time.
//
//   HUBD_URL=http://127.0.0.1:8765/capnweb node bench.mjs
//
// `make compare` does this with a hub of its own. It measures and judges
// nothing. docs/capnweb.md says how to read the columns.
import { fork } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import WebSocket, { WebSocketServer } from "ws";

globalThis.WebSocket = WebSocket;
const { newWebSocketRpcSession, RpcTarget } = await import("capnweb");

if (process.argv[2] === "server") {
  class Maths extends RpcTarget { add(a, b) { return a + b; } }
  class Main extends RpcTarget {
    echo(x) { return x; }
    get math() { return new Maths(); }
  }
  const serve = (where, said) => {
    const http = createServer();
    const sockets = new WebSocketServer({ server: http, perMessageDeflate: false });
    sockets.on("connection", (socket) => newWebSocketRpcSession(socket, new Main()));
    http.listen(where, () => said(http.address()));
  };
  serve(process.argv[3], () => serve({ port: 0, host: "127.0.0.1" }, (a) => process.send(a.port)));
  process.on("disconnect", () => process.exit());
} else {
  const rounds = Number(process.env.ROUNDS ?? 20);
  const scratch = mkdtempSync(join(tmpdir(), "capnweb"));
  const child = fork(new URL(import.meta.url), ["server", join(scratch, "s")]);
  const port = await new Promise((resolve) => child.once("message", resolve));
  const hub = new URL(process.env.HUBD_URL.replace(/^http/, "ws"));
  const targets = {
    "Node, TCP": { url: `ws://127.0.0.1:${port}/`, pid: child.pid },
    "hubd, TCP": { url: hub.href, pid: process.env.HUBD_PID },
  };
  if (process.env.HUBD_SOCKET) {
    targets["Node, Unix"] = { url: `ws+unix://${join(scratch, "s")}:/`, pid: child.pid };
    targets["hubd, Unix"] = { url: `ws+unix://${process.env.HUBD_SOCKET}:${hub.pathname}`, pid: process.env.HUBD_PID };
  }
  const arg = { text: "x".repeat(80) };

  // cpu returns the processor time of a process so far, in microseconds.
  function cpu(pid) {
    if (!pid) return NaN;
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1].split(" ");
    return (Number(fields[11]) + Number(fields[12])) * 10000;
  }

  async function connect(target) {
    target.socket = new WebSocket(target.url, { perMessageDeflate: false });
    await new Promise((resolve, reject) => target.socket.once("open", resolve).once("error", reject));
    target.api = newWebSocketRpcSession(target.socket);
  }

  // calls keeps so many calls in flight for so long.
  async function calls({ api, pid }, inFlight, ms) {
    const times = [];
    const before = [process.cpuUsage(), cpu(pid)];
    const began = performance.now();
    const end = began + ms;
    await Promise.all(Array.from({ length: inFlight }, async () => {
      while (performance.now() < end) {
        const t = performance.now();
        await api.echo(arg);
        times.push(performance.now() - t);
      }
    }));
    const own = process.cpuUsage(before[0]);
    return { n: times.length, ms: performance.now() - began, times, client: own.user + own.system, server: cpu(pid) - before[1] };
  }

  // chain makes calls each of which has the result of the one before as an
  // argument; nothing but the last is awaited. One message must come back.
  async function chain({ api, socket }, n) {
    const times = [];
    let answers = 0;
    const count = () => { answers++; };
    socket.on("message", count);
    for (let i = 0; i < n; i++) {
      const t = performance.now();
      let x = api.math.add(0, 1);
      for (let k = 0; k < 9; k++) x = api.math.add(x, 1);
      if (await x !== 10) throw new Error("wrong sum");
      times.push(performance.now() - t);
    }
    socket.off("message", count);
    if (answers !== n) throw new Error(`${answers} answers to ${n} chains: not one round trip each`);
    return times;
  }

  // Short turns, one target after the other, so that whatever else the machine
  // does meets all of them alike.
  const seen = {};
  for (const [name, target] of Object.entries(targets)) {
    await connect(target);
    seen[name] = { one: [], many: [], chain: [] };
    await calls(target, 64, 2000); // for the compilers on both sides
    await chain(target, 200);
  }
  for (let round = 0; round < rounds; round++) {
    for (const [name, target] of Object.entries(targets)) seen[name].one.push(await calls(target, 1, 100));
    for (const [name, target] of Object.entries(targets)) seen[name].many.push(await calls(target, 64, 200));
    for (const [name, target] of Object.entries(targets)) seen[name].chain.push(...await chain(target, 30));
  }
  const median = (list) => list.sort((a, b) => a - b)[list.length >> 1];
  const sum = (list, key) => list.reduce((s, r) => s + r[key], 0);
  const rate = (list) => sum(list, "n") / sum(list, "ms") * 1000;
  const table = {};
  for (const [name, { one, many, chain }] of Object.entries(seen)) {
    const node = seen[name.replace("hubd", "Node")].many;
    table[name] = {
      "p50 µs, 1 in flight": Math.round(median(one.flatMap((r) => r.times)) * 1000),
      "calls/s, 64 in flight": Math.round(rate(many)),
      "to Node": +(rate(many) / rate(node)).toFixed(2),
      "median round to Node": +median(many.map((r, i) => (r.n / r.ms) / (node[i].n / node[i].ms))).toFixed(2),
      "client µs/call": +(sum(many, "client") / sum(many, "n")).toFixed(1),
      "server µs/call": +(sum(many, "server") / sum(many, "n")).toFixed(1),
      "chain of 10, p50 µs": Math.round(median(chain) * 1000),
    };
  }
  console.table(table);
  for (const { socket } of Object.values(targets)) socket.terminate();
  child.kill();
  rmSync(scratch, { recursive: true });
}
