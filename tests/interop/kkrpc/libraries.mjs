// The versions of kkrpc that the suite drives, and how each of them is
// connected. KKRPC_BUILDS may name further builds, "name=/path/to/module.mjs"
// separated by blanks: the versions that the registry does not have.
import net from "node:net";
import { spawn } from "node:child_process";
import WebSocket from "ws";

globalThis.WebSocket ??= WebSocket; // Node 20 has none

// 0.1.1 differs from 0.1.2 in nothing but its version.
const registry = ["0.0.12", "0.1.2", "0.2.2"];
const builds = (process.env.KKRPC_BUILDS ?? "").split(" ").filter(Boolean).map((b) => b.split("="));

// compare tells whether version a is at least b.
const atLeast = (a, b) => {
  const [x, y] = [a, b].map((v) => v.split(/[.-]/).map(Number));
  for (let i = 0; i < 3; i++) if ((x[i] ?? 0) !== (y[i] ?? 0)) return (x[i] ?? 0) > (y[i] ?? 0);
  return true;
};

export const libraries = [];
for (const [version, path] of [...registry.map((v) => [v, `kkrpc-${v}`]), ...builds]) {
  const mod = await import(path);
  const compact = atLeast(version, "1.0.0");
  const base = {
    version, mod, compact,
    textErrors: !atLeast(version, "0.4.0"), // reads errors only as text
    bytes: !compact && atLeast(version, "0.1.0"), // a Uint8Array survives JSON
    properties: atLeast(version, "0.4.0"),
    streams: compact ? Boolean(mod.streaming) : atLeast(version, "0.6.2"),
    plain: { serialization: { version: "json" } },
  };
  libraries.push({ ...base, name: version });
  if (!compact && atLeast(version, "0.2.0")) {
    libraries.push({ ...base, name: `${version} with SuperJSON`, superjson: true, plain: {} });
  }
}

const opened = (emitter, event) => new Promise((resolve, reject) => {
  emitter.once ? emitter.once(event, resolve) : (emitter[`on${event}`] = resolve);
  emitter.once ? emitter.once("error", reject) : (emitter.onerror = reject);
});

// Each transport opens a connection and returns what the library takes, and
// how to end it.
export const transports = {
  async websocket(lib, wants) {
    const query = new URLSearchParams();
    if (wants.textErrors) query.set("errors", "string");
    if (wants.streams) query.set("streams", "1");
    const url = `${process.env.HUBD_WS}?${query}`;
    if (lib.compact) {
      const socket = new WebSocket(url);
      await opened(socket, "open");
      const closed = new Promise((resolve) => socket.once("close", resolve));
      return { io: lib.mod.webSocketTransport(socket), close: async () => { socket.close(); if (await closed !== 1005) throw new Error("the hub did not answer the close frame"); } };
    }
    const io = new lib.mod.WebSocketClientIO({ url });
    return { io, close: async () => io.destroy() };
  },
  async unix(lib) {
    const socket = net.connect(process.env.HUBD_LINES);
    await opened(socket, "connect");
    const closed = new Promise((resolve) => socket.once("close", resolve));
    const io = lib.compact ? lib.mod.stdioJsonTransport({ readable: socket, writable: socket }) : new lib.mod.NodeIo(socket, socket);
    return { io, close: async () => { socket.destroy(); await closed; } };
  },
  async stdio(lib, wants) {
    const args = ["--socket", process.env.HUBD_SOCKET, "bridge", "--protocol", "kkrpc"];
    if (wants.textErrors) args.push("--text-errors");
    if (wants.streams) args.push("--streams");
    const child = spawn(process.env.HUBCTL, args, { stdio: ["pipe", "pipe", "pipe"] });
    let stderr = "";
    child.stderr.on("data", (text) => (stderr += text));
    const exit = new Promise((resolve) => child.once("exit", (code) => resolve({ code, stderr })));
    const io = lib.compact
      ? lib.mod.stdioJsonTransport({ readable: child.stdout, writable: child.stdin })
      : new lib.mod.NodeIo(child.stdout, child.stdin);
    return { io, close: () => (child.stdin.end(), exit), exit };
  },
};

// channel connects a library with its own exposed API.
export async function channel(lib, transport, expose = {}, wants = {}) {
  const link = await transports[transport](lib, { textErrors: lib.textErrors, ...wants });
  const Channel = wants.streams && lib.compact ? lib.mod.streaming.RPCStreamingChannel ?? lib.mod.streaming.RPCChannel : lib.mod.RPCChannel;
  const rpc = new Channel(link.io, lib.compact ? { expose, timeout: 20000 } : { expose, ...lib.plain });
  return { hub: rpc.getAPI(), rpc, ...link };
}
