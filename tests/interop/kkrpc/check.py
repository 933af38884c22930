"""Checks a running hub with the clients of client.py.

    python3 check.py --list
    python3 check.py HOST:PORT SOCKET LINES HUBCTL [NAME...]
"""
import json
import sys
import threading
import time
import traceback

from client import Bridge, Client, Failed, Lines, WebSocket

CHECKS = []
DIALECTS = (False, True)


def check(function):
    CHECKS.append(function)
    return function


def equal(got, want):
    assert got == want, "got %r, want %r" % (got, want)


class Hub:
    def __init__(self, address, path, lines, hubctl):
        host, _, port = address.rpartition(":")
        self.host, self.port, self.path, self.lines, self.hubctl = host, int(port), path, lines, hubctl

    def ways(self, query="", *flags):
        """Every transport, as (name, a function that opens it)."""
        target = "/kkrpc" + query
        ways = {
            "tcp": lambda: WebSocket(self.host, self.port, target),
            "unix": lambda: WebSocket(self.path, None, target),
            "stdio": lambda: Bridge(self.hubctl, self.path, *flags),
        }
        if not query:
            ways["lines"] = lambda: Lines(self.lines)
        return ways.items()

    def each(self, api=None, query="", *flags):
        """A client of each dialect over each transport, one after another."""
        for compact in DIALECTS:
            for name, way in self.ways(query, *flags):
                client = Client(way(), compact, api)
                try:
                    yield client, "%s-%s" % (name, "compact" if compact else "classic")
                finally:
                    equal(client.odd, [])
                    client.close()
                    if name == "stdio":
                        equal(client.transport.process.wait(20), 0)
                        equal(client.transport.process.stderr.read(), b"")


def fails(function, *args):
    try:
        value = function(*args)
    except Failed as error:
        return error
    raise AssertionError("got %r instead of an error" % (value,))


@check
def values(hub):
    for client, _ in hub.each():
        for value in (None, True, 0, -1.5, 2**53, 2**64, 1e-7, "", "é漢😀\n\"\\\u2028", [], [[1, [2]]], {}, {"a": {"b": [None]}},
                      "grüße 😀" * 50000, {"__proto__": 1, "toString": 2}):
            equal(client.call("echo", value), value)
        equal(client.call("echo"), None)
        equal(client.call("math.add", 1, 2, 3), 6)
        equal(client.call("math.add", 10**30, 1), 10**30 + 1)


@check
def errors(hub):
    for client, _ in hub.each():
        error = fails(client.call, "demo.fail", "kaput")
        equal((error.name, error.message, error.data["code"], error.data["ran"]), ("Error", "kaput", "handler", "yes"))
        error = fails(client.call, "no.such.method", 1)
        equal((error.name, error.data["code"], error.data["ran"]), ("TypeError", "not_found", "no"))
        equal(error.message, "Cannot access such on undefined" if client.compact else "Method path no.such.method not found at no")
        equal(fails(client.call, "demo.sleep").name, "TypeError")
        error = fails(client.construct, "Counter", 5)
        equal((error.name, error.message), ("TypeError", "undefined is not a constructor" if client.compact else "Counter is not a constructor function"))
        equal(fails(client.call, "state.put", "k\n", 1).data["code"], "invalid_params")
        equal(client.call("echo", "on"), "on")


@check
def text_errors(hub):
    for client, _ in hub.each(None, "?errors=string", "--text-errors"):
        error = fails(client.call, "demo.fail", "kaput")
        equal((error.name, error.message), ("Error" if client.compact else None, "kaput"))


@check
def properties(hub):
    for client, name in hub.each():
        equal(client.set({"n": 1.0}, "state", "py", name), True)
        equal(client.get("state", "py", name), {"n": 1.0})
        equal(client.call("state.get", "py/" + name)["value"], {"n": 1.0})
        equal(client.set(None, "state", "py", name), True)
        equal(client.get("state", "py", name), None)
        if client.compact:
            equal(client.get("state", "absent"), None)
            equal(client.get("absent"), None)
            equal(client.get("math", "add"), None)
        else:
            error = fails(client.get, "state", "absent")
            equal((error.name, error.message), ("NotFound", "Property path state.absent not found at absent"))
        equal(client.get("math"), {})
        equal(fails(client.get).data["code"], "invalid_params")
        equal(fails(client.get, "no", "such", "thing").data["code"], "not_found")
        equal(fails(client.set, 1, "math", "x").data["code"], "invalid_params")
        # A write that nobody waits for is what the same client reads next.
        for i in range(20):
            box = client.ask({"t": "q", "op": "set", "p": ["state", "own", name], "v": i} if client.compact else
                             {"method": "", "args": {}, "type": "set", "path": ["state", "own", name], "value": i})
            equal(client.get("state", "own", name), i)
            equal(client.wait(box), True)


@check
def callbacks(hub):
    for client, _ in hub.each():
        got = []
        equal(client.call("demo.callback", got.append, 2000), 2000)
        equal(got, list(range(2000)))
        equal(fails(client.call, "demo.callback", 5, 1).data["code"], "invalid_params")
        equal(len(client.released), 1 if client.compact else 0)
        equal(len(client.callbacks), 0 if client.compact else 1)


@check
def both_directions(hub):
    clients = []
    api = {
        "hello": lambda name: "hello " + name,
        "boom": lambda: 1 / 0,
        "again": lambda a, b: clients[-1].call("math.add", a, b),
        "deep": lambda n: n if n == 0 else clients[-1].call("demo.callClient", "deep", n - 1),
    }
    for client, _ in hub.each(api):
        clients.append(client)
        equal(client.call("demo.callClient", "hello", "py"), "hello py")
        equal(client.call("demo.callClient", "again", 2, 3), 5)
        equal(client.call("demo.callClient", "deep", 20), 0)
        error = fails(client.call, "demo.callClient", "boom")
        equal((error.name, error.message), ("ZeroDivisionError", "division by zero"))
        equal(fails(client.call, "demo.callClient", "nope").name, "KeyError")


@check
def side_by_side(hub):
    for client, _ in hub.each():
        began = time.monotonic()
        boxes = [client.start("demo.sleep", 0.3) for _ in range(50)]
        equal(client.call("math.add", 1, 1), 2)
        equal([client.wait(box) for box in boxes], [0.3] * 50)
        assert time.monotonic() - began < 10, "one after another"


@check
def classic_streams(hub):
    for _, way in hub.ways("?streams=1", "--streams"):
        client = Client(way(), False)
        box = client.ask({"method": "demo.count", "args": [200], "type": "request"})
        equal(client.wait(box), {"__stream": True})
        name = "py-1"
        while name not in client.streams:
            time.sleep(0.01)
        items = client.streams[name]
        for i in range(200):
            m = items.get(timeout=30)
            equal((m["type"], m["args"]), ("stream-chunk", {"value": i}))
        m = items.get(timeout=30)
        equal((m["type"], m["args"], m["id"]), ("stream-end", {}, name))
        # An endless one ends in silence when it is cancelled.
        equal(client.wait(client.ask({"method": "demo.count", "args": [10**12], "type": "request"})), {"__stream": True})
        client.send({"id": "py-2", "method": "", "args": {}, "type": "stream-cancel"})
        equal(client.call("echo", "on"), "on")
        equal([m for m in client.streams["py-2"].queue if m["type"] != "stream-chunk"], [])
        equal(client.odd, [])
        client.close()


@check
def compact_streams(hub):
    for _, way in hub.ways("?streams=1", "--streams"):
        client = Client(way(), True)
        marker = client.call("demo.count", 10)
        equal(marker["__kkrpc_next_stream__"], "async-iterable")
        sid = marker["id"]
        time.sleep(0.1)
        equal(client.streams, {})  # nothing before the first pull
        items = client.streams.setdefault(sid, __import__("queue").Queue())
        client.send({"t": "sq", "id": "c1", "sid": sid, "op": "pull", "n": 3})
        equal([items.get(timeout=30)["v"] for _ in range(3)], [0, 1, 2])
        client.call("echo", 1)
        equal(items.qsize(), 0)
        client.send({"t": "sq", "id": "c2", "sid": sid, "op": "pull", "n": 100})
        equal([items.get(timeout=30)["v"] for _ in range(7)], [3, 4, 5, 6, 7, 8, 9])
        last = items.get(timeout=30)
        equal((last["d"], "e" in last, "v" in last), (True, False, False))
        # Control of what is not there.
        client.send({"t": "sq", "id": "c3", "sid": "nobody", "op": "return"})
        client.send({"t": "sq", "id": "c4", "sid": "nobody", "op": "pull", "n": 1})
        client.call("echo", 1)
        answers = {m["id"]: m for m in client.streams["nobody"].queue}
        equal(answers["c3"], {"t": "sr", "id": "c3", "sid": "nobody", "d": True})
        equal(answers["c4"]["e"]["m"], "Unknown RPC stream nobody")
        # An early end.
        sid = client.call("demo.count", 10**12)["id"]
        client.send({"t": "sq", "id": "c5", "sid": sid, "op": "pull", "n": 2})
        client.send({"t": "sq", "id": "c6", "sid": sid, "op": "return"})
        equal(client.call("echo", "on"), "on")
        equal([m for m in client.streams[sid].queue if m["id"] == "c6"], [{"t": "sr", "id": "c6", "sid": sid, "d": True}])
        equal(client.odd, [])
        client.close()


@check
def superjson(hub):
    client = Client(WebSocket(hub.host, hub.port, "/kkrpc"), False)
    for value, notes, want in (
        ({"d": "1970-01-01T00:00:00.000Z"}, {"args.0.d": ["Date"]}, {"d": "1970-01-01T00:00:00.000Z"}),
        ("12345678901234567890", {"args.0": ["bigint"]}, 12345678901234567890),
        ({"a": None, "b": [None]}, {"args.0.a": ["undefined"], "args.0.b.0": ["undefined"]}, {"b": [None]}),
        ([1, 2, 255], {"args.0": [["typed-array", "Uint8Array"]]}, {"type": "Uint8Array", "data": [1, 2, 255]}),
        ([["k", "v"]], {"args.0": ["map"]}, {"k": "v"}),
    ):
        box = client.pending["s"] = __import__("queue").Queue()
        message = {"id": "s", "method": "echo", "args": [value], "type": "request", "callbackIds": None, "transferSlots": None, "version": "superjson"}
        client.transport.write(json.dumps({"json": message, "meta": {"values": notes, "v": 1}}) + "\n")
        equal(client.wait(box), want)
    client.close()


def raw(hub, *messages):
    """What a hub says to raw messages, up to the answer of a last good call."""
    ws = WebSocket(hub.host, hub.port, "/kkrpc")
    for message in messages:
        ws.write(message)
    ws.write('{"t":"q","id":"alive","op":"call","p":["echo"]}')
    got = []
    while True:
        text = ws.read()
        if text is None:
            return got + [None]
        if json.loads(text).get("id") == "alive":
            ws.close()
            return got
        got.append(text)


@check
def malformed(hub):
    for quiet in ("this is not json\n", '{"id":"x1","method":\n', "[1,2,3]\n", "42\n", "\n", " ", '{"id":"u","args":[1],"type":"bogus"}\n',
                  '{"id":"u","method":"echo","args":[1]}\n', '{"id":"u","method":"echo","args":[1],"type":"REQUEST"}\n',
                  '{"id":"u","args":[1],"type":"request"}\n', '{"id":"nobody","method":"","args":{"result":1},"type":"response"}\n',
                  '{"id":"c","method":"nobody","args":[1],"type":"callback"}\n', '{"t":"zz","id":"u","op":"call","p":["echo"]}',
                  '{"t":"q","op":"call","p":["echo"]}', '{"t":"q","id":7,"op":"call","p":["echo"]}', '{"t":"r","id":"nobody","v":1}',
                  '{"t":"cb","id":"nobody","a":[1]}', '{"t":"cbr","ids":["nobody",1]}', '{"t":"cbr"}', "{}", '{"json":5}', '{"json":{}}'):
        equal(raw(hub, quiet), [])
    for message, want in (
        ('{"method":"echo","args":[1],"type":"request"}\n', '{"method":"","args":{"result":1},"type":"response","version":"json"}\n'),
        ('{"id":7,"method":"echo","args":[1],"type":"request"}\n', '{"id":7,"method":"","args":{"result":1},"type":"response","version":"json"}\n'),
        ('{"id":"a","method":"echo","args":{"a":1},"type":"request"}\n', '{"id":"a","method":"","args":{},"type":"response","version":"json"}\n'),
        ('{"id":"a","method":"echo","type":"request"}\r\n', '{"id":"a","method":"","args":{},"type":"response","version":"json"}\n'),
        ('  {"id":"a","method":"echo","type":"request"}', '{"id":"a","method":"","args":{},"type":"response","version":"json"}\n'),
        ('{"t":"q","id":"a","op":"call","p":["echo"]}\n', '{"t":"r","id":"a"}'),
    ):
        equal(raw(hub, message), [want])
    for message, want in (
        ('{"id":"a","method":"","args":[1],"type":"request"}\n', "Method  is not a function"),
        ('{"id":"a","method":"","args":{},"type":"get"}\n', "Invalid get request: missing path"),
        ('{"id":"a","method":"","args":{},"type":"get","path":[]}\n', "Invalid get request: missing path"),
        ('{"id":"a","method":"","args":{},"type":"set","value":1}\n', "Invalid set request: missing path"),
        ('{"t":"q","id":"a","op":"call","p":[]}', " is not a function"),
        ('{"t":"q","id":"a","op":"set","p":[],"v":1}', "Cannot set empty path"),
        ('{"t":"q","id":"a","op":"frob","p":["echo"]}', "unknown operation"),
        ('{"t":"q","id":"a","op":"call"}', "Missing path"),
        ('{"t":"q","id":"a","op":"call","p":[1]}', "Missing path"),
        ('{"t":"q","id":"a","op":"call","p":["echo"],"a":{"x":1}}', "arguments are no array"),
        ('{"t":"q","id":"a","op":"ref","p":["call","x"]}', "Remote reference operations require kkrpc/remote-refs"),
    ):
        got = raw(hub, message)
        equal(len(got), 1)
        answer = json.loads(got[0])
        equal(answer["e"]["m"] if "t" in answer else answer["args"]["error"]["message"], want)
    one = '{"id":"%s","method":"echo","args":["%s"],"type":"request"}'
    equal(len(raw(hub, one % ("a", "A") + "\n" + one % ("b", "B") + "\n")), 2)  # two lines in one message
    equal(len(raw(hub, (one % ("a", "A"))[:20], (one % ("a", "A"))[20:] + "\n")), 1)  # one line in two messages
    equal(len(raw(hub, json.dumps(json.loads(one % ("a", "A")), indent=2))), 1)
    equal(raw(hub, "__DESTROY__"), [None])


@check
def a_client_that_vanishes(hub):
    """Clients that leave inside a callback, a call and a stream do no harm."""
    for compact in DIALECTS:
        for _, way in hub.ways():
            client = Client(way(), compact)
            reached = threading.Event()

            def leave(i, transport=client.transport):
                reached.set()
                getattr(transport, "vanish", transport.close)()

            client.start("demo.sleep", 1000)
            client.start("demo.callback", leave, 10**9)
            assert reached.wait(30)
            assert client.ended.wait(30)
    watcher = Client(WebSocket(hub.host, hub.port, "/kkrpc"), True)
    for _ in range(600):
        calls = [c for c in watcher.call("hub.calls") if c["protocol"] == "kkrpc" and c["method"] != "hub.calls"]
        if not calls:
            break
        time.sleep(0.05)
    equal(calls, [])
    watcher.close()


def main(arguments):
    hub = Hub(*arguments[:4])
    failed = 0
    for function in CHECKS:
        if arguments[4:] and function.__name__ not in arguments[4:]:
            continue
        try:
            function(hub)
            print("ok", function.__name__, flush=True)
        except Exception as error:
            failed += 1
            print("FAIL %s: %s: %s" % (function.__name__, type(error).__name__, error), flush=True)
            traceback.print_exc()
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--list"]:
        print("\n".join(c.__name__ for c in CHECKS))
        sys.exit(0)
    sys.exit(main(sys.argv[1:]))
