"""Tries a running hubd with the JSON client: python3 check.py [--root DIR] [--mib N] URL [NAME...]

Prints one line per check, "ok NAME" or "FAIL NAME: why", and exits with 1 when
one failed. hubd must run with --demo; DIR is its file root, without which files
are not tried; N is the size of a large one in MiB, 64 unless told.
"""

import base64
import hashlib
import keyword
import os
import random
import socket
import struct
import sys
import threading
import time
import traceback

from snek_client import Client, RemoteError, Stream

CHECKS = []
ROOT = None
MIB = 64


def check(function):
    CHECKS.append(function)
    return function


def equal(got, want):
    if got != want or type(got) is not type(want):
        raise AssertionError("got %.300r, want %.300r" % (got, want))


def raises(name, function, *args, **kwargs):
    try:
        value = function(*args, **kwargs)
        if hasattr(value, "__next__"):
            value = list(value)
    except RemoteError as error:
        equal(error.name, name)
        return error.message
    raise AssertionError("got %.300r, want %s" % (value, name))


@check
def handshake(url):
    with Client(url, handshake=True) as client:
        equal(client.codec, "msgpack")  # and JSON is understood all the same
        equal(client.call("echo", "echo", 1), 1)
        client.send_raw(b"\0")
        equal(client.recv_raw(), b"\0msgpack")


@check
def values(url):
    with Client(url) as client:
        for value in [
            None, True, False, 0, -1, 2**53 + 1, 2**64 - 1, -(2**63), 2**70, 3.0, -0.0, 1e-07, 1.7976931348623157e308, "",
            "gr\u00fc\u00dfe \u2028 \U0001f600", "\x00\x1f\x7f", [], {}, [[]], {"": {"": []}}, {"b": 1, "a": [1, 2.5, None]},
        ]:
            equal(client.call("echo", "echo", value), value)
            equal(repr(client.call("echo", "echo", value=value)), repr(value))


@check
def metadata(url):
    with Client(url) as client:
        status = client.call("_meta", "status")
        equal(sorted(status), ["codec", "transport", "version"])
        equal(status["transport"], url.split(":")[0])
        services = client.call("_meta", "services")
        equal([s["name"] for s in services], client.call("_meta", "service_names"))
        for service in services + [client.call("_meta", "service", "_meta")]:
            equal(list(service), ["name", "doc", "commands"])
            equal(client.call("_meta", "service", name=service["name"]), service)
            names = [c["name"] for c in service["commands"]]
            equal(names, sorted(names))
            for command in service["commands"]:
                equal(list(command), ["name", "doc", "parameters", "return_annotation", "is_generator"])
                python(command["name"])
                optional = False
                for parameter in command["parameters"]:
                    equal(list(parameter), ["name", "doc", "kind", "annotation", "default", "has_default", "hide"])
                    python(parameter["name"])
                    equal(parameter["kind"], 1)
                    if optional and not parameter["has_default"]:
                        raise AssertionError("%s: a default before %s" % (command["name"], parameter["name"]))
                    optional = parameter["has_default"]
        raises("KeyError", client.call, "_meta", "service", "nope")


def python(name):
    if not name.isidentifier() or keyword.iskeyword(name):
        raise AssertionError("%r is no name for Python" % name)


def signature(command):
    parameters = ", ".join(
        "%s: %s" % (p["name"], p["annotation"]) + (" = %r" % p["default"] if p["has_default"] else "")
        for p in command["parameters"]
    )
    return "(%s) -> %s%s" % (parameters, command["return_annotation"], " stream" if command["is_generator"] else "")


@check
def descriptions(url):
    """Services that upstream has, too, look as they do there."""
    want = {
        "_meta.service": "(name: str) -> ServiceSpec",
        "_meta.service_names": "() -> list[str]",
        "_meta.services": "() -> list[ServiceSpec]",
        "_meta.status": "() -> dict[str, Any]",
        "echo.echo": "(value: Any) -> Any",
        "math.add": "(a: int, b: int) -> int",
        "health.ping": "(count: int = 1, interval: float = 1.0) -> Iterator[None] stream",
        "demo.sleep": "(seconds: float) -> float",
        "demo.fail": "(message: str) -> None",
        "demo.count": "(n: int) -> Iterator[int] stream",
        "demo.sum": "(values: Iterable[Any]) -> Any",
        "demo.upper": "(lines: Iterable[Any]) -> Iterable[Any] stream",
    }
    files = {
        "file.create_dir": "(path: str, mode: str | None = None, recurse: bool = False) -> None",
        "file.delete": "(path: str, recurse: bool = False) -> None",
        "file.download": "(src_path: str) -> Iterator[bytes] stream",
        "file.path_info": "(pattern: str | None = None) -> Iterable[dict[str, Any]] stream",
        "file.paths": "(pattern: str | None = None, with_metadata: bool = False) -> Iterable[str] stream",
        "file.size": "(path: str) -> int",
        "file.touch": "(path: str) -> None",
        "file.upload": "(src: Iterable[bytes], dst_path: str) -> str",
    }
    with Client(url) as client:
        if ROOT:
            want.update(files)
        else:
            equal("file" in client.call("_meta", "service_names"), False)
        for name, text in want.items():
            service, command = name.split(".")
            found = [c for c in client.call("_meta", "service", service)["commands"] if c["name"] == command]
            equal([name + signature(c) for c in found], [name + text])


@check
def every_published_default(url):
    """Clients with metadata send every parameter by name, defaults included."""
    known = {"name": "echo", "key": "absent", "session": "demo", "prefix": "", "value": 1}
    services = ("echo", "ping", "hub", "health", "math", "demo", "file", "session", "state")
    skip = ("publish", "close", "restore", "compact", "provide", "unprovide")
    with Client(url) as client:
        for service in client.call("_meta", "services"):
            for command in service["commands"]:
                arguments = {}
                for p in command["parameters"]:
                    if p["has_default"]:
                        arguments[p["name"]] = p["default"]
                    elif p["name"] in known:
                        arguments[p["name"]] = known[p["name"]]
                    else:
                        break
                else:
                    if service["name"] not in services or command["name"] in skip:
                        continue
                    try:
                        if command["is_generator"]:  # some never end
                            with Client(url, timeout=0.2) as other:
                                other.command(service["name"], command["name"], [], arguments)
                                try:
                                    for message in (other.recv(), other.recv()):
                                        if message[0] == "ErrorMessage":
                                            other.value(message)
                                except socket.timeout:
                                    pass  # it waits for something to happen
                        else:
                            client.call(service["name"], command["name"], **arguments)
                    except RemoteError as error:
                        if error.name == "TypeError" and ("got null" in error.message or "keyword" in error.message):
                            raise AssertionError("%s.%s(%r): %s" % (service["name"], command["name"], arguments, error)) from error


@check
def errors(url):
    with Client(url) as client:
        equal(raises("KeyError", client.call, "nope", "x"), "'nope'")
        equal(raises("AttributeError", client.call, "echo", "nope"), "'Echo' object has no attribute 'nope'")
        equal(raises("AttributeError", client.call, "echo", "__class__"), "'Echo' object has no attribute '__class__'")
        equal(raises("TypeError", client.call, "echo", "echo"), "Echo.echo() missing 1 required positional argument: 'value'")
        equal(raises("TypeError", client.call, "echo", "echo", 1, 2), "Echo.echo() takes 2 positional arguments but 3 were given")
        equal(raises("TypeError", client.call, "echo", "echo", zz=1), "Echo.echo() got an unexpected keyword argument 'zz'")
        equal(raises("TypeError", client.call, "echo", "echo", 1, value=1), "Echo.echo() got multiple values for argument 'value'")
        equal(raises("RuntimeError", client.call, "demo", "fail", "a\nb \u00fc"), "a\nb \u00fc")
        raises("TypeError", client.stream, "demo", "count", "x")
        raises("TypeError", client.call, "demo", "sum", Stream([1, "x", 2]))
        raises("KeyError", client.call, "state", "get", "no such key")
        client.send_raw(b"[" * (2 << 20))
        equal(client.recv()[1], "DecodeError")
        client.send("Nope")
        equal(client.recv()[1:3], ["ValidationError", "Invalid value 'Nope' - at `$[0]`"])
        client.send("DataMessage", 1)
        equal(client.recv()[1], "MessageError")
        equal(client.call("echo", "echo", 1), 1)


@check
def streams(url):
    with Client(url) as client:
        equal(list(client.stream("demo", "count", 1000)), list(range(1000)))
        equal(list(client.stream("demo", "count", n=0)), [])
        equal(client.call("demo", "sum", Stream([])), 0)
        equal(client.call("demo", "sum", values=Stream(range(1000))), 499500)
        equal(client.call("demo", "sum", [1, 2.5]), 3.5)
        equal(list(client.stream("health", "ping", count=3, interval=0.01)), [None, None])
        equal(list(client.stream("health", "ping", count=1, interval=1.0)), [])
        equal(list(client.stream("demo", "upper", ["a", "caf\u00e9"])), ["A", "CAF\u00c9"])


@check
def item_by_item(url):
    """Each answer comes before the next item is sent."""
    with Client(url) as client:
        client.command("demo", "upper", [], {"lines": Stream(())})
        client.send("StreamStartMessage")
        equal(client.recv(), ["StreamStartMessage"])
        for i in range(100):
            client.send("DataMessage", "a%d" % i)
            equal(client.recv(), ["DataMessage", "A%d" % i])
        client.send("StreamEndMessage")
        equal(client.recv(), ["StreamEndMessage"])


@check
def all_before_reading(url):
    """20 MB through a stream in both directions, written before the first read."""
    with Client(url) as client:
        size, n = 64 << 10, 320
        for i, item in enumerate(client.stream("demo", "upper", Stream("abcdef"[i % 6] * size for i in range(n)))):
            equal(item, "ABCDEF"[i % 6] * size)
        equal(i, n - 1)
        equal(client.call("echo", "echo", 1), 1)


@check
def refused_streams(url):
    """The connection is in step after a stream that nobody wanted."""
    with Client(url) as client:
        for command in [("echo", "nope"), ("nope", "x"), ("echo", "echo"), ("math", "add")]:
            client.command(*command, [Stream(())], {})
            client.upload(Stream(range(2000)))
            equal(client.recv()[0], "ErrorMessage")
            equal(client.call("echo", "echo", command[1]), command[1])


@check
def state_and_sessions(url):
    with Client(url) as client, Client(url) as watcher:
        key = "snek/" + url
        revision = client.call("state", "put", key, {"n": 3.0, "big": 2**63})["revision"]
        got = client.call("state", "get", key=key)
        equal((got["value"], got["revision"]), ({"n": 3.0, "big": 2**63}, revision))
        events = watcher.stream("state", "watch", key=key, from_revision=revision)
        client.call("state", "put", key, 1)
        while True:
            event = next(events)
            if event["type"] == "put":
                break
        equal(event["value"], 1)
        names = [s["session"] for s in client.call("session", "list")]
        equal("demo" in names, True)


@check
def parallel(url):
    failures = []

    def work(i):
        try:
            with Client(url) as client:
                for k in range(20):
                    equal(client.call("math", "add", a=i, b=k), i + k)
                equal(list(client.stream("demo", "count", n=i)), list(range(i)))
                equal(client.call("demo", "sum", Stream(range(i))), sum(range(i)))
        except Exception:  # reported below
            failures.append(traceback.format_exc())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(64)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if failures:
        raise AssertionError("%d of 64 failed: %s" % (len(failures), failures[0]))


@check
def files(url):
    """A large file there and back."""
    if not ROOT:
        return
    data = random.Random(7).randbytes(MIB << 20)
    want = hashlib.sha256(data).hexdigest()
    name = "json-" + url.split(":")[0]
    pieces = (base64.b64encode(data[i : i + (1 << 20)]).decode() for i in range(0, len(data), 1 << 20))
    with Client(url, timeout=120) as client:
        equal(client.call("file", "upload", src=Stream(pieces), dst_path=name), name)
        with open(os.path.join(ROOT, name), "rb") as f:
            equal(hashlib.sha256(f.read()).hexdigest(), want)
        equal(client.call("file", "size", path=name), len(data))
        got = hashlib.sha256()
        for item in client.stream("file", "download", src_path=name):
            got.update(base64.b64decode(item))
        equal(got.hexdigest(), want)
        client.call("file", "delete", name)
        raises("FileNotFoundError", client.call, "file", "size", name)


@check
def disconnected(url):
    """A client that leaves in the middle of anything disturbs nobody."""
    for leave in [
        lambda c: c.command("demo", "sleep", [30], {}),
        lambda c: c.command("demo", "count", [10**9], {}),
        lambda c: (c.command("demo", "sum", [Stream(())], {}), c.send("StreamStartMessage"), c.send("DataMessage", 1)),
        lambda c: c.sock.sendall(b"5\r\nab" if c.http else b"\0\0\0\5ab"),
    ]:
        client = Client(url)
        leave(client)
        client.close()
    with Client(url) as client:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            running = [c["method"] for c in client.call("hub", "calls") if c["protocol"] == "snekrpc"]
            if running == ["hub.calls"]:
                return
            time.sleep(0.01)  # between two looks
        raise AssertionError("still running: %s" % running)


@check
def too_long(url):
    """An announced length over the limit ends the connection."""
    with Client(url) as client:
        client.sock.sendall(b"1000001\r\n" if client.http else struct.pack(">I", (16 << 20) + 1))
        try:
            rest = client.file.read()
        except (ConnectionResetError, socket.timeout) as error:
            if isinstance(error, socket.timeout):
                raise
            rest = b""
        equal(rest, b"")


def main(args):
    global ROOT, MIB
    if args[:1] == ["--list"]:
        print("\n".join(c.__name__ for c in CHECKS))
        return 0
    if args[:1] == ["--root"]:
        ROOT, args = args[1], args[2:]
    if args[:1] == ["--mib"]:
        MIB, args = int(args[1]), args[2:]
    url, names = args[0], args[1:]
    failed = 0
    for c in CHECKS:
        if names and c.__name__ not in names:
            continue
        try:
            c(url)
            print("ok", c.__name__, flush=True)
        except Exception as error:
            failed += 1
            traceback.print_exc()
            print("FAIL %s: %s: %s" % (c.__name__, type(error).__name__, error), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
