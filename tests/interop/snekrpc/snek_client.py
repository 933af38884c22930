"""A client of snekrpc in plain Python: JSON over TCP, Unix sockets and HTTP.

    client = Client("unix:///run/user/1000/hubd/hub.sock")
    client.call("math", "add", a=2, b=40)                      # 42
    list(client.stream("demo", "count", n=3))                  # [0, 1, 2]
    client.call("demo", "sum", values=Stream(range(10)))       # 45
"""

import json
import socket
import struct
import threading
from urllib.parse import urlsplit


class Stream:
    """Marks an argument that is sent as a stream."""

    def __init__(self, items):
        self.items = items


class RemoteError(Exception):
    def __init__(self, name, message):
        super().__init__("%s: %s" % (name, message))
        self.name, self.message = name, message


class Client:
    def __init__(self, url, timeout=60, handshake=False):
        self.http = urlsplit(url).scheme == "http"
        self.url, self.timeout = url, timeout
        self.sock = connect(url, timeout)
        self.file = self.sock.makefile("rb")
        if self.http:
            self.sock.sendall(
                b"POST / HTTP/1.1\r\nHost: %s\r\nContent-Type: application/octet-stream\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n" % urlsplit(url).netloc.encode()
            )
        self.headed = not self.http
        self.codec = None
        if handshake:
            self.send_raw(b"\0")
            answer = self.recv_raw()
            assert answer[:1] == b"\0", answer
            self.codec = answer[1:].decode()

    def close(self):
        self.file.close()
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    # Messages: length-prefixed, or one HTTP chunk each.

    def send_raw(self, data):
        if self.http:
            self.sock.sendall(b"%X\r\n%s\r\n" % (len(data), data))
        else:
            self.sock.sendall(struct.pack(">I", len(data)) + data)

    def recv_raw(self):
        if not self.headed:
            self.head = [self.file.readline()]
            while self.head[-1] not in (b"\r\n", b""):
                self.head.append(self.file.readline())
            self.headed = True
        if self.http:
            line = self.file.readline()
            if not line or int(line, 16) == 0:
                raise EOFError("connection closed")
            data = self.exactly(int(line, 16))
            assert self.file.readline() == b"\r\n"
            return data
        return self.exactly(struct.unpack(">I", self.exactly(4))[0])

    def exactly(self, n):
        data = self.file.read(n)
        if len(data) != n:
            raise EOFError("connection closed")
        return data

    def send(self, *message):
        self.send_raw(json.dumps(message, ensure_ascii=False).encode())

    def recv(self):
        return json.loads(self.recv_raw())

    # Calls.

    def command(self, service, command, args, kwargs):
        streams = []

        def argument(value):
            if isinstance(value, Stream):
                streams.append(value)
                return ["StreamArgument"]
            return ["Argument", value]

        self.send(
            "CommandMessage", service, command,
            [argument(a) for a in args], {k: argument(v) for k, v in kwargs.items()},
        )
        return streams[0] if streams else None

    def upload(self, stream):
        self.send("StreamStartMessage")
        for item in stream.items:
            self.send("DataMessage", item)
        self.send("StreamEndMessage")

    def call(self, service, command, /, *args, **kwargs):
        """One answer. A stream is sent whole before the answer is read, as upstream does."""
        stream = self.command(service, command, args, kwargs)
        if stream:
            self.upload(stream)
        return self.value(self.recv())

    def value(self, message):
        if message[0] == "ErrorMessage":
            raise RemoteError(message[1], message[2])
        if message[0] != "DataMessage":
            raise AssertionError(message)
        return message[1]

    def stream(self, service, command, /, *args, concurrent=False, **kwargs):
        """The items of a streamed answer. concurrent: read while the own stream is sent."""
        stream = self.command(service, command, args, kwargs)
        if stream and concurrent:
            threading.Thread(target=self.upload, args=(stream,), daemon=True).start()
        elif stream:
            self.upload(stream)
        message = self.recv()
        if message[0] == "ErrorMessage":
            raise RemoteError(message[1], message[2])
        if message[0] != "StreamStartMessage":
            raise AssertionError(message)
        return self.items()

    def items(self):
        while True:
            message = self.recv()
            if message[0] == "StreamEndMessage":
                return
            yield self.value(message)


def connect(url, timeout):
    parts = urlsplit(url)
    if parts.scheme == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout)
        sock.connect(parts.path)
        return sock
    sock = socket.create_connection((parts.hostname, parts.port), timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
