// Compares a hub with a server of the library itself: the same client, the
// same calls, one after the other, several rounds. HUBD_URL names the hub;
// HUBD_SOCKET, when given, its Unix socket, and then both are measured over
// Unix sockets, too. HUBD_PID lets it count the hub's processor time.
//
//   HUBD_URL=http://127.0.0.1:8765/capnweb node bench.mjs
//
// It measures and judges nothing. The columns are explained in docs/capnweb.md.
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
  const rounds = Number(process.env.ROUNDS ?? 5);
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

  async function connect(url) {
    const socket = new WebSocket(url, { perMessageDeflate: false });
    await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
    return { socket, api: newWebSocketRpcSession(socket) };
  }

  async function calls({ url, pid }, inFlight, ms) {
    const { socket, api } = await connect(url);
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
    const took = performance.now() - began;
    const own = process.cpuUsage(before[0]);
    const server = cpu(pid) - before[1];
    socket.close();
    times.sort((a, b) => a - b);
    return {
      rate: times.length / took * 1000, p50: times[times.length >> 1] * 1000,
      client: (own.user + own.system) / times.length, server: server / times.length,
    };
  }

  // chain makes calls each of which has the result of the one before as an
  // argument; nothing but the last is awaited.
  async function chain({ url }, n) {
    const { socket, api } = await connect(url);
    const times = [];
    for (let i = 0; i < n; i++) {
      const t = performance.now();
      let x = api.math.add(0, 1);
      for (let k = 0; k < 9; k++) x = api.math.add(x, 1);
      if (await x !== 10) throw new Error("wrong sum");
      times.push(performance.now() - t);
    }
    socket.close();
    return times.sort((a, b) => a - b)[n >> 1] * 1000;
  }

  const seen = {};
  for (const [name, target] of Object.entries(targets)) {
    seen[name] = [];
    await calls(target, 64, 2000); // for the compilers on both sides
    await chain(target, 200);
  }
  for (let round = 0; round < rounds; round++) {
    for (const [name, target] of Object.entries(targets)) {
      const one = await calls(target, 1, 1000);
      const many = await calls(target, 64, 2000);
      seen[name].push({ p50: one.p50, rate: many.rate, client: many.client, server: many.server, chain: await chain(target, 300) });
    }
  }
  const median = (list) => list.sort((a, b) => a - b)[list.length >> 1];
  const table = {};
  for (const [name, list] of Object.entries(seen)) {
    const all = (key) => list.map((r) => r[key]);
    const rates = all("rate").sort((a, b) => a - b);
    table[name] = {
      "p50 µs, 1 in flight": Math.round(median(all("p50"))),
      "calls/s, 64 in flight": Math.round(median(all("rate"))),
      "from": Math.round(rates[0]), "to": Math.round(rates.at(-1)),
      "client µs/call": +median(all("client")).toFixed(1), "server µs/call": +median(all("server")).toFixed(1),
      "chain of 10, p50 µs": Math.round(median(all("chain"))),
    };
  }
  console.table(table);
  for (const over of ["TCP", "Unix"]) {
    if (!seen[`hubd, ${over}`]) continue;
    const ratios = seen[`hubd, ${over}`].map((r, i) => r.rate / seen[`Node, ${over}`][i].rate);
    console.log(`${over}: calls/s of hubd / Node, round by round: ${ratios.map((r) => r.toFixed(2)).join(" ")}`);
  }
  child.kill();
  rmSync(scratch, { recursive: true });
}
