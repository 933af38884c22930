// Compares a hub with a server of the library itself: the same clients, the
// same calls, in turns, several rounds. HUBD_URL names the hub; HUBD_SOCKET,
// when given, its Unix socket, and then both are measured over Unix sockets,
// too. HUBD_PID lets it count the hub's processor time.
//
//   HUBD_URL=http://127.0.0.1:8765/capnweb node bench.mjs
//
// The program is three: the one that takes the figures, the server of the
// library, and the clients, each a process of its own. `make compare` runs it
// with a hub of its own. It measures and judges nothing. docs/capnweb.md says
// how to read the columns.
import { fork } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import WebSocket, { WebSocketServer } from "ws";

globalThis.WebSocket = WebSocket;
const { newWebSocketRpcSession, RpcTarget } = await import("capnweb");

const roles = { server, client };
await (roles[process.argv[2]] ?? compare)();

// server serves a Unix socket and a port, and sends the port.
function server() {
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
}

// client does what it is told and sends what came of it.
function client() {
  const arg = { text: "x".repeat(80) };
  const connections = new Map();

  async function connect(url) {
    const known = connections.get(url);
    if (known) return known;
    const socket = new WebSocket(url, { perMessageDeflate: false });
    await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
    const made = { socket, api: newWebSocketRpcSession(socket) };
    connections.set(url, made);
    return made;
  }

  const work = {
    // calls keeps so many calls in flight for so long.
    async calls({ api }, { inFlight, ms }) {
      const times = [];
      const before = process.cpuUsage();
      const began = performance.now();
      const end = began + ms;
      await Promise.all(Array.from({ length: inFlight }, async () => {
        while (performance.now() < end) {
          const t = performance.now();
          await api.echo(arg);
          times.push(performance.now() - t);
        }
      }));
      const own = process.cpuUsage(before);
      return { n: times.length, ms: performance.now() - began, cpu: own.user + own.system, times: inFlight === 1 ? times : [] };
    },

    // chain makes calls each of which has the result of the one before as an
    // argument; nothing but the last is awaited. One message must come back.
    async chain({ api, socket }, { n }) {
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
      return { times };
    },
  };

  process.on("message", async ({ what, url, ...how }) => process.send(await work[what](await connect(url), how)));
  process.on("disconnect", () => process.exit());
}

async function compare() {
  const rounds = Number(process.env.ROUNDS ?? 20);
  const many = 4; // clients
  const scratch = mkdtempSync(join(tmpdir(), "capnweb"));
  const spawn = (...args) => fork(new URL(import.meta.url), args);
  const answer = (child) => new Promise((resolve, reject) => {
    const gone = (code) => reject(new Error(`a process of the comparison ended: ${code}`));
    child.once("exit", gone).once("message", (said) => { child.off("exit", gone); resolve(said); });
  });
  const node = spawn("server", join(scratch, "s"));
  const port = await answer(node);
  const clients = Array.from({ length: many }, () => spawn("client"));

  const hub = new URL(process.env.HUBD_URL.replace(/^http/, "ws"));
  const targets = {
    "Node, TCP": { url: `ws://127.0.0.1:${port}/`, pid: node.pid },
    "hubd, TCP": { url: hub.href, pid: process.env.HUBD_PID },
  };
  if (process.env.HUBD_SOCKET) {
    targets["Node, Unix"] = { url: `ws+unix://${join(scratch, "s")}:/`, pid: node.pid };
    targets["hubd, Unix"] = { url: `ws+unix://${process.env.HUBD_SOCKET}:${hub.pathname}`, pid: process.env.HUBD_PID };
  }

  // cpu returns the processor time of a process so far, in microseconds.
  function cpu(pid) {
    if (!pid) return NaN;
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1].split(" ");
    return (Number(fields[11]) + Number(fields[12])) * 10000;
  }

  // turn lets the first n clients do the same at once, and adds up.
  async function turn({ url, pid }, n, order) {
    const before = cpu(pid);
    const all = await Promise.all(clients.slice(0, n).map((c) => { c.send({ url, ...order }); return answer(c); }));
    const sum = (key) => all.reduce((s, r) => s + r[key], 0);
    return { n: sum("n"), ms: sum("ms") / n, client: sum("cpu"), server: cpu(pid) - before, times: all.flatMap((r) => r.times) };
  }

  // Short turns, one target after the other, so that whatever else the machine
  // does meets all of them alike.
  const kinds = {
    one: [1, { what: "calls", inFlight: 1, ms: 100 }],
    alone: [1, { what: "calls", inFlight: 64, ms: 200 }],
    shared: [many, { what: "calls", inFlight: 64 / many, ms: 200 }],
    chain: [1, { what: "chain", n: 30 }],
  };
  const seen = {};
  for (const [name, target] of Object.entries(targets)) {
    seen[name] = { one: [], alone: [], shared: [], chain: [] };
    await turn(target, many, { what: "calls", inFlight: 64 / many, ms: 2000 }); // for the compilers on both sides
    await turn(target, 1, { what: "chain", n: 200 });
  }
  for (let round = 0; round < rounds; round++) {
    for (const [kind, how] of Object.entries(kinds)) {
      for (const [name, target] of Object.entries(targets)) seen[name][kind].push(await turn(target, ...how));
    }
  }

  const median = (list) => list.sort((a, b) => a - b)[list.length >> 1];
  const sum = (list, key) => list.reduce((s, r) => s + r[key], 0);
  const rate = (list) => sum(list, "n") / sum(list, "ms") * 1000;
  const latency = {}, load = {};
  for (const [name, of] of Object.entries(seen)) {
    const base = seen[name.replace("hubd", "Node")];
    latency[name] = {
      "p50 µs, 1 in flight": Math.round(median(of.one.flatMap((r) => r.times)) * 1000),
      "chain of 10, p50 µs": Math.round(median(of.chain.flatMap((r) => r.times)) * 1000),
    };
    for (const [kind, n] of [["alone", 1], ["shared", many]]) {
      load[`${name}, ${n === 1 ? "1 client" : `${n} clients`}`] = {
        "calls/s, 64 in flight": Math.round(rate(of[kind])),
        "to Node": +(rate(of[kind]) / rate(base[kind])).toFixed(2),
        "median round to Node": +median(of[kind].map((r, i) => (r.n / r.ms) / (base[kind][i].n / base[kind][i].ms))).toFixed(2),
        "client µs/call": +(sum(of[kind], "client") / sum(of[kind], "n")).toFixed(1),
        "server µs/call": +(sum(of[kind], "server") / sum(of[kind], "n")).toFixed(1),
      };
    }
  }
  console.table(latency);
  console.table(load);
  for (const child of [node, ...clients]) child.disconnect();
  rmSync(scratch, { recursive: true });
}
