// Compares a hub with a server of the library itself: the same client, the
// same calls, one after the other. HUBD_URL names the hub.
//   HUBD_URL=http://127.0.0.1:8765/capnweb node bench.mjs
import { fork } from "node:child_process";
import WebSocket, { WebSocketServer } from "ws";

globalThis.WebSocket = WebSocket;
const { newWebSocketRpcSession, RpcTarget } = await import("capnweb");

if (process.argv[2] === "server") {
  class Maths extends RpcTarget { add(a, b) { return a + b; } }
  class Main extends RpcTarget {
    echo(x) { return x; }
    get math() { return new Maths(); }
  }
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1", perMessageDeflate: false });
  server.on("connection", (socket) => newWebSocketRpcSession(socket, new Main()));
  server.on("listening", () => process.send(server.address().port));
} else {
  const child = fork(new URL(import.meta.url), ["server"]);
  const port = await new Promise((resolve) => child.once("message", resolve));
  const targets = { node: `ws://127.0.0.1:${port}/`, hub: process.env.HUBD_URL.replace(/^http/, "ws") };
  const arg = { text: "x".repeat(80) };

  async function measure(url, inFlight, ms) {
    const socket = new WebSocket(url, { perMessageDeflate: false });
    await new Promise((r) => socket.once("open", r));
    const api = newWebSocketRpcSession(socket);
    const times = [];
    let calls = 0;
    const end = performance.now() + ms;
    const began = performance.now();
    await Promise.all(Array.from({ length: inFlight }, async () => {
      while (performance.now() < end) {
        const t = performance.now();
        await api.echo(arg);
        times.push(performance.now() - t);
        calls++;
      }
    }));
    const took = performance.now() - began;
    times.sort((a, b) => a - b);
    socket.close();
    return { perSecond: Math.round(calls / took * 1000), p50: times[times.length >> 1] * 1000 };
  }

  async function chain(url) {
    const socket = new WebSocket(url, { perMessageDeflate: false });
    await new Promise((r) => socket.once("open", r));
    const api = newWebSocketRpcSession(socket);
    const times = [];
    for (let i = 0; i < 500; i++) {
      const t = performance.now();
      let x = api.math.add(0, 1);
      for (let k = 0; k < 9; k++) x = api.math.add(x, 1);
      if (await x !== 10) throw new Error("wrong sum");
      times.push(performance.now() - t);
    }
    socket.close();
    return times.sort((a, b) => a - b)[250] * 1000;
  }

  const result = {};
  for (const [name, url] of Object.entries(targets)) await measure(url, 64, 500); // warm
  for (let round = 0; round < 2; round++) {
    for (const [name, url] of Object.entries(targets)) {
      const one = await measure(url, 1, 1500);
      const many = await measure(url, 64, 3000);
      result[`${name} ${round}`] = { "p50 us, 1 in flight": Math.round(one.p50), "calls/s, 64 in flight": many.perSecond, "chain of 10, p50 us": Math.round(await chain(url)) };
    }
  }
  console.table(result);
  child.kill();
}
