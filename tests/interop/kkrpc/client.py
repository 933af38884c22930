"""A kkrpc client of both dialects in plain Python, written from docs/kkrpc.md.

    hub = Client(WebSocket("127.0.0.1", 7420, "/kkrpc"), compact=True)
    print(hub.call("math.add", 1, 2), hub.get("state", "theme"))

Transports: WebSocket over TCP or a Unix socket, Lines over a Unix socket, and
Bridge, which starts `hubctl bridge --protocol kkrpc`.
"""
import base64
import itertools
import json
import os
import queue
import socket
import struct
import subprocess
import threading


class Failed(Exception):
    """What the other side answered instead of a result."""

    def __init__(self, error):
        if isinstance(error, str):
            error = {"message": error}
        self.name = error.get("name", error.get("n"))
        self.message = error.get("message", error.get("m"))
        self.data = error
        super().__init__("%s: %s" % (self.name, self.message))


class Bytes:
    """A socket with exact reads."""

    def __init__(self, sock):
        self.sock = sock
        self.file = sock.makefile("rb")

    def exactly(self, n):
        data = self.file.read(n)
        if len(data) < n:
            raise EOFError
        return data


def connect(host, port=None):
    """A host with a port, or the path of a Unix socket."""
    if port is None:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(host)
        return sock
    return socket.create_connection((host, port))


class WebSocket:
    newline = True  # the classic dialect ends each message with one

    def __init__(self, host, port, target, origin=None):
        self.sock = connect(host, port)
        self.stream = Bytes(self.sock)
        self.lock = threading.Lock()
        self.closed = None  # the code of the other side's close frame
        self.pings = 0
        key = base64.b64encode(os.urandom(16)).decode()
        head = "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" % (
            target, "hub" if port is None else "%s:%d" % (host, port))
        head += "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n" % key
        if origin:
            head += "Origin: %s\r\n" % origin
        self.sock.sendall((head + "\r\n").encode())
        self.status = self.stream.file.readline().decode().strip()
        while self.stream.file.readline() not in (b"\r\n", b""):
            pass
        if " 101 " not in self.status + " ":
            raise ConnectionError(self.status)

    def frame(self, op, payload):
        head = bytes([0x80 | op])
        if len(payload) < 126:
            head += bytes([0x80 | len(payload)])
        elif len(payload) < 1 << 16:
            head += bytes([0x80 | 126]) + struct.pack(">H", len(payload))
        else:
            head += bytes([0x80 | 127]) + struct.pack(">Q", len(payload))
        mask = os.urandom(4)
        size = len(payload)
        hidden = int.from_bytes(payload, "big") ^ int.from_bytes((mask * (size // 4 + 1))[:size], "big")
        with self.lock:
            self.sock.sendall(head + mask + hidden.to_bytes(size, "big"))

    def write(self, text):
        self.frame(1, text.encode())

    def read(self):
        """The payload of the next message; None at the end."""
        try:
            while True:
                first, second = self.stream.exactly(2)
                size = second & 0x7F
                if size == 126:
                    size = struct.unpack(">H", self.stream.exactly(2))[0]
                elif size == 127:
                    size = struct.unpack(">Q", self.stream.exactly(8))[0]
                assert not second & 0x80, "a server does not mask"
                payload = self.stream.exactly(size)
                op = first & 0x0F
                if op == 8:
                    self.closed = struct.unpack(">H", payload[:2])[0] if payload else 1005
                    return None
                assert first & 0x80 and op == 1, "only whole text messages, and no ping: %#x" % first
                return payload.decode()
        except (EOFError, OSError):
            return None

    def close(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()


class Lines:
    newline = False  # write adds it

    def __init__(self, path):
        self.sock = connect(path)
        self.file = self.sock.makefile("rb")
        self.lock = threading.Lock()

    def write(self, text):
        with self.lock:
            self.sock.sendall(text.encode() + b"\n")

    def read(self):
        try:
            line = self.file.readline()
        except OSError:
            return None
        return line.decode("ascii") if line else None  # ASCII and nothing else

    def close(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()


class Bridge:
    newline = False

    def __init__(self, hubctl, path, *flags):
        self.process = subprocess.Popen([hubctl, "--socket", path, "bridge", "--protocol", "kkrpc", *flags],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.lock = threading.Lock()

    def write(self, text):
        with self.lock:
            self.process.stdin.write(text.encode() + b"\n")
            self.process.stdin.flush()

    def read(self):
        line = self.process.stdout.readline()
        return line.decode("ascii") if line else None

    def close(self):
        self.process.stdin.close()

    def vanish(self):
        """Closes both ends, as the end of this process would. close alone leaves the bridge to wait for answers."""
        self.close()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, self.process.stdout.fileno())
        os.close(nothing)


class Client:
    """Calls the other side, and serves api to it. Every handler has a thread."""

    def __init__(self, transport, compact=False, api=None):
        self.transport, self.compact, self.api = transport, compact, api or {}
        self.ids = itertools.count(1)
        self.pending, self.callbacks, self.streams = {}, {}, {}
        self.released, self.odd = [], []
        self.ended = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    # Calling.

    def call(self, method, *args):
        return self.wait(self.start(method, *args))

    def start(self, method, *args):
        if self.compact:
            return self.ask({"t": "q", "op": "call", "p": method.split("."), "a": [self._wrap(a) for a in args]})
        ids = []
        return self.ask({"method": method, "args": [self._mark(a, ids) for a in args], "type": "request", "callbackIds": ids})

    def get(self, *path):
        if self.compact:
            return self.wait(self.ask({"t": "q", "op": "get", "p": path}))
        return self.wait(self.ask({"method": "", "args": {}, "type": "get", "path": path}))

    def set(self, value, *path):
        if self.compact:
            return self.wait(self.ask({"t": "q", "op": "set", "p": path, "v": value}))
        return self.wait(self.ask({"method": "", "args": {}, "type": "set", "path": path, "value": value}))

    def construct(self, name, *args):
        if self.compact:
            return self.wait(self.ask({"t": "q", "op": "new", "p": [name], "a": args}))
        return self.wait(self.ask({"method": name, "args": args, "type": "construct"}))

    def ask(self, message):
        """Sends a request and returns where its answer will be."""
        message["id"] = "py-%d" % next(self.ids)
        box = self.pending[message["id"]] = queue.Queue()
        self.send(message)
        return box

    def wait(self, box):
        failed, value = box.get(timeout=30)
        if failed:
            raise Failed(value)
        return value

    def send(self, message):
        if "type" in message:
            message["version"] = "json"
        text = json.dumps(message)
        self.transport.write(text + "\n" if self.transport.newline and "type" in message else text)

    def close(self):
        self.transport.close()
        self.ended.wait(30)

    def _name(self, function):
        name = "fn-%d" % next(self.ids)
        self.callbacks[name] = function
        return name

    def _mark(self, arg, ids):
        if not callable(arg):
            return arg
        ids.append(self._name(arg))
        return "__callback__" + ids[-1]

    def _wrap(self, arg):
        if callable(arg):
            return {"__kkrpc_next_arg__": "callback", "id": self._name(arg)}
        return {"__kkrpc_next_arg__": "value", "v": arg}

    # Being called.

    def _run(self):
        while True:
            text = self.transport.read()
            if text is None:
                break
            try:
                self._handle(json.loads(text))
            except Exception as error:
                self.odd.append((text[:200], repr(error)))
        self.ended.set()
        for box in list(self.pending.values()):
            box.put((True, {"name": "Ended", "message": "the connection has ended"}))

    def _handle(self, m):
        kind = m.get("t") or m.get("type")
        if kind == "r":
            self.pending.pop(m["id"]).put(("e" in m, m.get("e", m.get("v"))))
        elif kind == "response":
            self.pending.pop(m["id"]).put(("error" in m["args"], m["args"].get("error", m["args"].get("result"))))
        elif kind == "cb":
            self.callbacks[m["id"]](*m["a"])
        elif kind == "callback":
            self.callbacks[m["method"]](*m["args"])
        elif kind == "cbr":
            for name in m["ids"]:
                del self.callbacks[name]
                self.released.append(name)
        elif kind == "sr":
            self.streams.setdefault(m["sid"], queue.Queue()).put(m)
        elif kind in ("stream-chunk", "stream-end", "stream-error"):
            self.streams.setdefault(m["id"], queue.Queue()).put(m)
        elif kind in ("q", "request"):
            threading.Thread(target=self._serve, args=(m,), daemon=True).start()
        else:
            raise ValueError("unknown message")

    def _serve(self, m):
        compact = "t" in m
        name = ".".join(m["p"]) if compact else m["method"]
        args = [a["v"] if isinstance(a, dict) and "__kkrpc_next_arg__" in a else a for a in (m.get("a", []) if compact else m["args"])]
        try:
            value = self.api[name](*args)
            answer = {"t": "r", "v": value} if compact else {"method": "", "args": {"result": value}, "type": "response"}
        except Exception as error:
            what = type(error).__name__, str(error) or "failed"
            if compact:
                answer = {"t": "r", "e": {"n": what[0], "m": what[1]}}
            else:
                answer = {"method": "", "args": {"error": {"name": what[0], "message": what[1]}}, "type": "response"}
        self.send({"id": m["id"], **answer})
