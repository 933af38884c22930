"""Checks of the krpc server with nothing but Python's standard library.

    check.py --list                    names of the checks
    check.py HOST:PORT SOCKET NAME     runs one against a hub with --demo and --file-root

The requests are those of the real client, head and body, as it sends them on
Pythons of old (a declared length that counts characters) and of today (chunked).
"""

import hashlib
import http.client
import json
import os
import random
import socket
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

BOUNDARY = "-----KrOnOsThEwIzArD"
LIMIT = 60  # seconds; it turns a hang into a failure


class Failed(Exception):
    def __init__(self, error):
        super().__init__(error)
        self.code, self.message, self.info = error["code"], error["message"], error.get("info")


class Client:
    """The client of the protocol, written anew from its wire format."""

    def __init__(self, address, chunked=False, hook=None):
        self.address, self.chunked, self.hook = address, chunked, hook

    def __getattr__(self, name):
        return Method(self, name)

    def call(self, method, params):
        files = {}
        if isinstance(params, list):
            sent = []
            for p in params:
                if hasattr(p, "read"):
                    name = "__file__:%s-%s" % (time.time(), random.random())
                    files[name] = p.name
                    p.close()
                    p = name
                sent.append(p)
            params = sent
        call = json.dumps({"method": method, "params": params, "pmhparams": self.hook})
        url = "http://%s/" % self.address
        if files:
            length, body = self.multipart(call, files)
            request = urllib.request.Request(url, method="POST")
            request.add_header("Content-Type", "multipart/form-data; boundary=" + BOUNDARY)
            if self.chunked:
                request.data = body
            else:
                request.add_header("Content-Length", str(length))
                request._data = body
        else:
            request = urllib.request.Request(url, urllib.parse.urlencode({"json": call}).encode())
        answer = urllib.request.urlopen(request, timeout=LIMIT)
        if answer.headers["Content-Type"] == "application/octet-stream":
            return answer
        reply = json.loads(answer.read())
        if "result" in reply:
            return reply["result"]
        raise Failed(reply["error"])

    @staticmethod
    def multipart(call, files):
        """The body as a generator, and its length in characters."""
        heads = ['--%s\r\nContent-Disposition: form-data; name="json"\r\n\r\n%s\r\n' % (BOUNDARY, call)]
        parts = []
        for name, path in files.items():
            head = '--%s\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\nContent-Type: %s\r\n\r\n' % (
                BOUNDARY, name, os.path.basename(path), "('text/plain', None)")
            parts.append((head, path))
        end = "--%s--\r\n\r\n" % BOUNDARY
        length = len(heads[0]) + len(end) + sum(len(h) + os.path.getsize(p) + 2 for h, p in parts)

        def body():
            yield heads[0].encode()
            for head, path in parts:
                yield head.encode()
                with open(path, "rb") as f:
                    while True:
                        piece = f.read(8192)
                        if not piece:
                            break
                        yield piece
                yield b"\r\n"
            yield end.encode()

        return length, body()


class Method:
    def __init__(self, client, name):
        self.client, self.name = client, name

    def __getattr__(self, name):
        return Method(self.client, self.name + "." + name)

    def __call__(self, *args, **named):
        return self.client.call(self.name, named or list(args))


def expect(got, want):
    if got != want:
        raise AssertionError("got %r, want %r" % (got, want))


def fails(call, code, info=None):
    try:
        got = call()
    except Failed as e:
        expect(e.code, code)
        if info is not None:
            expect(e.info, info)
        return e
    raise AssertionError("no error, but %r" % (got,))


def temporary(data, name="file.bin"):
    folder = tempfile.mkdtemp()
    path = os.path.join(folder, name)
    with open(path, "wb") as f:
        f.write(data)
    return path


def info(path):
    with open(path, "rb") as f:
        data = f.read()
    return {"name": os.path.basename(path), "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def remove(path):
    os.remove(path)
    os.rmdir(os.path.dirname(path))


def raw(address, request):
    """Sends bytes and returns all that comes back."""
    kind = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(kind) as s:
        s.settimeout(LIMIT)
        s.connect(address)
        s.sendall(request)
        got = b""
        while True:
            piece = s.recv(65536)
            if not piece:
                return got
            got += piece


def values(at):
    c = Client(at.tcp)
    for v in ["", "x", "hé😀 &=+%\"\\\n", 0, 1.5, False, True, [], [1, [2]], {"a": {"b": None}}, 2**70, -1]:
        expect(c.echo(v), v)
    expect(c.echo(None), {})
    expect(c.echo(msg="hi"), "hi")
    expect(c.echo(value="hi"), "hi")
    expect(c.math_add(2**70, 1), 2**70 + 1)
    expect(c.math.add(a=1, b=2), 3)
    expect(c.demo_range(3), [0, 1, 2])
    expect(c.demo_count(3), [0, 1, 2])
    expect(c.demo_sum([1, 2, 3]), 6)
    expect(c.call("echo", "scalar"), "scalar")


def errors(at):
    c = Client(at.tcp)
    fails(lambda: c.no_such(), -32601)
    fails(lambda: c.demo(), -32601)
    fails(lambda: c._meta_x(), -32601)
    fails(lambda: c.call("", []), -32600, "Method not specified.")
    fails(lambda: c.call(None, []), -32601)
    fails(lambda: c.demo_fail("the text"), -32000, "the text")
    expect(fails(lambda: c.echo(1, 2), -32000).message, "Method call raised an exception.")
    fails(lambda: c.echo("__file__:1"), -32002, "__file__:1")
    fails(lambda: c.demo_callback(1, 2), -32000)


def files(at):
    plain = temporary(b"hello\n", "a.txt")
    odd = temporary(bytes(range(256)) * 500 + b"\r\n--" + BOUNDARY.encode() + b"--x\r\nend\r\n\r\n", "ünï" * 12 + "\"q'.bin")
    empty = temporary(b"", "empty")
    nearly = temporary(b"\r\n--" + BOUNDARY.encode() + b"-", "nearly")
    try:
        for chunked in (False, True):
            c = Client(at.tcp, chunked)
            for path in (plain, odd, empty, nearly):
                expect(c.demo_file_info(open(path, "rb")), [info(path)])
            expect(c.demo_file_info(open(odd, "rb"), "label", 5, open(plain, "rb"), None, open(empty, "rb")),
                   [info(odd), info(plain), info(empty)])
            expect(c.demo_file_info("no file"), [])
            fails(lambda: c.no_such(open(plain, "rb")), -32601)
            fails(lambda: c.echo(open(plain, "rb"), 2), -32000)
            expect(c.echo(open(odd, "rb")).read(), open(odd, "rb").read())
    finally:
        for path in (plain, odd, empty, nearly):
            remove(path)


def folder(at):
    """The file service, with files of several megabytes both ways."""
    c = Client(at.tcp)
    path = temporary(random.Random(1).randbytes(5 << 20))
    try:
        expect(c.file_create_dir("krpc"), {})
        expect(c.file_upload(open(path, "rb"), "krpc/up.bin"), "krpc/up.bin")
        expect(c.file_paths("krpc/*"), ["krpc/up.bin"])
        expect(c.file_size("krpc/up.bin"), 5 << 20)
        expect(c.file_sha256("krpc/up.bin"), info(path)["sha256"])
        with open(path, "rb") as f:
            data = f.read()
        expect(c.file_download("krpc/up.bin").read() == data, True)
        expect(c.file_download("krpc/up.bin", 1000, 5).read(), data[1000:1005])
        expect(c.file_path_info("krpc")[0]["isfile"], True)
        fails(lambda: c.file_download("krpc/none"), -32000, "FileNotFoundError: [Errno 2] No such file or directory: 'krpc/none'")
        fails(lambda: c.file_download("../../etc/passwd"), -32000, "OSError: Permission denied: '../../etc/passwd'")
        fails(lambda: c.file_upload(open(path, "rb"), "krpc/no/such"), -32000)
        expect(c.file_delete("krpc", True), {})
        expect(c.file_paths("krp*"), [])
    finally:
        remove(path)


def requests(at):
    """Requests made by hand, over both transports."""
    call = urllib.parse.quote('{"method": "math_add", "params": [1, 2]}')
    host, port = at.tcp.split(":")
    for where in (at.unix, (host, int(port))):
        def ask(text):
            return raw(where, text.replace("HOST", at.tcp).encode()).decode()

        form = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s"
        got = ask("POST / HTTP/1.0\r\n" + form % (5 + len(call), "json=" + call))
        expect(got.startswith("HTTP/1.0 200 OK\r\n"), True)
        expect(got.endswith('\r\n\r\n{"result": 3}'), True)
        # A query is a call where no page can send one.
        got = ask("GET /?json=%s HTTP/1.0\r\n\r\n" % call)
        expect(got.split("\r\n")[0], "HTTP/1.0 200 OK" if where == at.unix else "HTTP/1.0 405 Method Not Allowed")
        got = ask("POST /deep/path?a=b HTTP/1.1\r\nHost: HOST\r\n" + form % (5 + len(call), "JSON=" + call))
        expect(got.endswith('{"result": 3}'), True)
        expect("\r\nContent-Type: application/json\r\n" in got and "\r\nConnection: close\r\n" in got, True)
        expect(ask("GET / HTTP/1.1\r\nHost: HOST\r\n\r\n").split("\r\n")[0], "HTTP/1.1 400 Missing 'json' parameter")
        expect(ask("PUT / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")[9:12], "405")
        got = ask("POST / HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n\r\njson=%7")
        expect('"code": -32700, "message": "Parse error."' in got, True)
        # A pipelined second request, and a peer that waits for the end.
        got = ask("POST / HTTP/1.1\r\nHost: HOST\r\n" + form % (5 + len(call), "json=" + call) + "GET / HTTP/1.1\r\nHost: HOST\r\n\r\n")
        expect(got.count("HTTP/1.1"), 1)


def hostile(at):
    """What lies, or never ends, is refused."""
    part = '--%s\r\nContent-Disposition: form-data; name="__file__:%%d"; filename="f"\r\n\r\n\r\n' % BOUNDARY
    many = "".join(part % i for i in range(10000)) + "--%s--\r\n" % BOUNDARY
    host, port = at.tcp.split(":")
    head = ("POST / HTTP/1.1\r\nHost: %s\r\nContent-Type: multipart/form-data; boundary=%s\r\nConnection: close\r\nContent-Length: %%d\r\n\r\n"
            % (at.tcp, BOUNDARY))

    def status(length, body):
        connection = socket.create_connection((host, int(port)), LIMIT)
        writer = threading.Thread(target=send, args=(connection, (head % length + body).encode()))
        writer.start()
        try:
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            return answer.status
        finally:
            connection.close()
            writer.join()

    def send(connection, data):
        try:
            connection.sendall(data)
        except OSError:
            pass  # the answer is there, and the connection closed

    expect(status(len(many), many), 400)
    expect(status(1 << 50, many[:1000]), 413)
    expect(status(1 << 20, "--%s\r\nX: %s" % (BOUNDARY, "y" * (1 << 20))), 400)
    expect(status(10, "--nothing-"), 400)


def parallel(at):
    """Many clients at once, each with a file of its own."""
    failed = []

    def one(i):
        path = temporary(b"%d" % i * 50000, "p%d" % i)
        try:
            c = Client(at.tcp, chunked=i % 2 == 0)
            for _ in range(5):
                expect(c.demo_file_info(open(path, "rb")), [info(path)])
                expect(c.math_add(i, 1), i + 1)
        except Exception as e:  # told below
            failed.append(repr(e))
        finally:
            remove(path)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    expect(failed, [])


CHECKS = {f.__name__: f for f in (values, errors, files, folder, requests, hostile, parallel)}


class Address:
    def __init__(self, tcp, unix):
        self.tcp, self.unix = tcp, unix


def main():
    if sys.argv[1:] == ["--list"]:
        print("\n".join(CHECKS))
        return
    at, name = Address(sys.argv[1], sys.argv[2]), sys.argv[3]
    CHECKS[name](at)
    print("ok", name)


if __name__ == "__main__":
    main()
