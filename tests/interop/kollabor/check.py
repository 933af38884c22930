"""Tries a running hubd with the Python client: python3 check.py SOCKET [NAME...]

Prints one line per check, "ok NAME" or "FAIL NAME: why", and exits with 1 when
one failed. hubd must run with --demo.
"""

import asyncio
import json
import math
import os
import sys
import traceback

from rpc_client import AttachClient, RpcClient, RpcError, RpcHandlerError, RpcMethodNotFound, RpcTimeoutError, one_shot

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def equal(got, want):
    if got != want:
        raise AssertionError("got %.300r, want %.300r" % (got, want))


async def raises(kind, awaitable):
    try:
        value = await awaitable
    except kind as error:
        if type(error) is not kind:
            raise AssertionError("got %s, want exactly %s" % (type(error).__name__, kind.__name__)) from error
        return error
    raise AssertionError("got %.300r, want %s" % (value, kind.__name__))


@check
async def ping(path):
    client = await RpcClient.open(path)
    answer = await client.call("ping")
    equal(sorted(answer), ["daemon_pid", "identity", "status", "uptime"])
    equal(answer["status"], "ok")
    os.kill(answer["daemon_pid"], 0)
    equal(type(answer["uptime"]), float)
    await client.close()


@check
async def values(path):
    client = await RpcClient.open(path)
    for value in [
        0, -1, 2**53 + 1, 2**63 + 1, 10**39 + 7, -(10**39), 1.0, -0.0, 1e-07, 1.7976931348623157e308, 5e-324,
        True, False, None, "", "text", "grüße", "\U0001f600", "\u2028", "\x00\x1f\x7f", "\ud800", "a\udfffb",
        [], {}, [[]], {"": {"": []}}, list(range(1000)), {"b": 1, "a": 2}, math.inf, -math.inf,
    ]:
        got = (await client.call("echo", {"value": value}))["value"]
        equal((type(got), repr(got)), (type(value), repr(value)))
    got = await client.call("echo", {"value": math.nan})
    equal(math.isnan(got["value"]), True)
    equal(await client.call("echo"), {})
    equal(await client.call("echo", {"object": object}), {"object": str(object)})
    equal(await client.call("math.add", {"a": 10**39, "b": 1}), 10**39 + 1)
    await client.close()


@check
async def hundred_concurrent_calls(path):
    client = await RpcClient.open(path)
    results = await asyncio.gather(*(client.call("echo", {"n": n}) for n in range(100)))
    equal(results, [{"n": n} for n in range(100)])
    # Replies arrive as the calls end, not in the order of the requests.
    done = []

    async def sleep(seconds):
        done.append(await client.call("demo.sleep", {"seconds": seconds}))

    await asyncio.gather(*(sleep(s) for s in (1.0, 0.5, 0.01)))
    equal(done, [0.01, 0.5, 1.0])
    equal(client.frames, [])
    await client.close()


@check
async def large_values(path):
    client = await RpcClient.open(path)
    for size in (1 << 10, 65536, 1 << 20, 8 << 20, 15 << 20):
        got = await client.call("echo", {"blob": "x" * size}, timeout=60)
        equal(len(got["blob"]), size)
    await client.close()


@check
async def errors(path):
    client = await RpcClient.open(path)
    error = await raises(RpcMethodNotFound, client.call("no.such"))
    equal(str(error), "method not found: no.such")
    error = await raises(RpcHandlerError, client.call("demo.fail", {"message": "it's broken"}))
    equal("it's broken" in error.remote_message, True)
    equal(sorted(error.frame), ["action", "error", "error_kind", "request_id", "result"])
    error = await raises(RpcError, client.call("math.add", {"a": 1}))
    equal(error.kind, "invalid_params")
    # The connection is not at fault.
    equal(await client.call("math.add", {"a": 1, "b": 2}), 3)
    await client.close()


@check
async def own_timer_wins(path):
    """The hub holds its answer back, so that the client's own error is raised."""
    client = await RpcClient.open(path)
    await raises(RpcTimeoutError, client.call("demo.sleep", {"seconds": 30}, timeout=0.3))
    # The late answer is dropped, and the connection goes on.
    equal(await client.call("demo.sleep", {"seconds": 0.5}), 0.5)
    equal([f.get("error_kind") for f in client.frames], ["timeout"])
    await client.close()


@check
async def close_fails_what_is_pending(path):
    client = await RpcClient.open(path)
    call = asyncio.ensure_future(client.call("demo.sleep", {"seconds": 30}))
    while not client.pending:
        await asyncio.sleep(0)
    await client.call("ping")
    await client.close()
    error = await raises(RpcError, call)
    equal(str(error), "rpc client closed")
    await raises(RpcError, client.call("ping"))


@check
async def control_frames(path):
    equal((await one_shot(path, {"action": "ping"}))["type"], "pong")
    status = await one_shot(path, {"action": "get_status"})
    equal((status["type"], type(status["pid"]), type(status["uptime"])), ("status", int, int))
    equal(sorted(status), ["current_task", "identity", "pid", "state", "type", "uptime"])
    equal((await one_shot(path, {"action": "get_context"}))["type"], "context")
    output = await one_shot(path, {"action": "get_output", "lines": 5})
    equal((output["type"], type(output["lines"])), ("output", list))
    ack = await one_shot(path, {"action": "message", "id": "m1", "from_identity": "a", "to": "x", "content": "hello"})
    equal(ack, {"type": "ack", "id": "m1"})
    equal(await one_shot(path, {"action": "roster_update", "agents": []}), {"type": "ack"})
    error = await one_shot(path, {"action": "dance"})
    equal((error["type"], bool(error["msg"])), ("error", True))
    # An RPC is no different on a connection of its own.
    reply = await one_shot(path, {"action": "rpc_request", "request_id": 7, "method": "math.add", "params": {"a": 1, "b": 2}})
    equal(reply, {"action": "rpc_reply", "request_id": 7, "result": 3, "error": None, "error_kind": None})


@check
async def frames_in_one_write_are_answered_in_order(path):
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b'{"action": "ping"}\n{"action": "get_status"}\n{"action": "get_context"}\n{"action": "ping"}')
    writer.write_eof()  # the last line has no LF
    kinds = [json.loads(line)["type"] for line in (await asyncio.wait_for(reader.read(), 10)).splitlines()]
    equal(kinds, ["pong", "status", "context", "pong"])
    writer.close()


@check
async def attach(path):
    client = await RpcClient.open(path)
    viewer = await AttachClient(path).start()
    equal(sorted(viewer.ack), ["agent_id", "hub", "mode", "type", "uptime"])
    equal((viewer.ack["type"], viewer.ack["mode"]), ("attach_ack", "readonly"))
    session = viewer.ack["hub"]["identity"]

    published = [
        {"type": "output", "rendered": "one\ntwo"},
        {"type": "stream_chunk", "chunk": "grüße"},
        {"type": "anything", "n": 2**63 + 1, "deep": {"a": [1.0]}, "ts": 5.0},
    ]
    for event in published:
        equal(await client.call("session.publish", {"session": session, "event": event}), {"ok": True})
    events = await viewer.wait_for(lambda seen: [e for e in seen if e["type"] == "anything"] and seen)
    events = [e for e in events if e["type"] in ("output", "stream_chunk", "anything")][-3:]
    for got, sent in zip(events, published):
        equal({k: got[k] for k in sent}, sent)
        equal((type(got["ts"]), type(got["seq"])), (float, int))
    equal([e["seq"] for e in events], sorted(e["seq"] for e in events))

    # A second one sees the same by replay, with the same numbers and times.
    late = await AttachClient(path, client_id="attach-1").start()
    again = await late.wait_for(lambda seen: [e for e in seen if e["type"] == "anything"] and seen)
    again = [e for e in again if e["type"] in ("output", "stream_chunk", "anything")][-3:]
    equal(again, events)
    await late.detach()
    equal(late.failure, None)

    # Calls go through an attached connection too.
    request = {"action": "rpc_request", "request_id": "r", "method": "math.add", "params": {"a": 1, "b": 2}}
    await viewer.send(request)
    reply = (await viewer.wait_for(lambda seen: [e for e in seen if e.get("action") == "rpc_reply"]))[0]
    equal(reply["result"], 3)

    # One that vanishes disturbs nobody.
    viewer.abort()
    equal(await client.call("session.publish", {"session": session, "event": {"type": "after"}}), {"ok": True})
    await client.close()


@check
async def interactive_input(path):
    viewer = await AttachClient(path).start()
    typist = await AttachClient(path, mode="interactive", client_id="attach-typist").start()
    equal(typist.ack["mode"], "interactive")
    for key in "hi\r":
        await typist.send({"type": "input", "text": key})
    inputs = await viewer.wait_for(lambda seen: (found := [e for e in seen if e["type"] == "input" and e.get("client_id") == "attach-typist"]) and len(found) >= 3 and found)
    equal([e["text"] for e in inputs], ["h", "i", "\r"])

    # A viewer cannot type.
    await viewer.send({"type": "input", "text": "no"})
    error = (await viewer.wait_for(lambda seen: [e for e in seen if e["type"] == "error"]))[0]
    equal(bool(error["msg"]), True)
    await viewer.detach()
    await typist.detach()


@check
async def big_events_do_not_kill_a_small_reader(path):
    client = await RpcClient.open(path)
    viewer = await AttachClient(path).start()
    session = viewer.ack["hub"]["identity"]
    chunk = "".join(chr(0x20 + i % 90) for i in range(70000)) + "é" * 30000
    equal(await client.call("session.publish", {"session": session, "event": {"type": "stream_chunk", "chunk": chunk}}), {"ok": True})
    equal(await client.call("session.publish", {"session": session, "event": {"type": "big_done"}}), {"ok": True})
    events = await viewer.wait_for(lambda seen: [e for e in seen if e["type"] == "big_done"] and seen)
    equal("".join(e["chunk"] for e in events if e["type"] == "stream_chunk" and len(e["chunk"]) > 1000), chunk)
    equal(viewer.failure, None)
    await viewer.detach()
    await client.close()


@check
async def heartbeats(path):
    viewer = await AttachClient(path).start()

    async def beat():
        async with viewer.news:
            await viewer.news.wait_for(lambda: viewer.heartbeats or viewer.ended)

    await asyncio.wait_for(beat(), 20)
    equal(viewer.heartbeats, 1)
    await viewer.detach()


async def main(path, names):
    failed = 0
    chosen = [c for c in CHECKS if not names or c.__name__ in names]
    if not chosen:
        print("no such check")
        return 1
    for function in chosen:
        try:
            await asyncio.wait_for(function(path), 60)
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
    sys.exit(asyncio.run(main(sys.argv[1], sys.argv[2:])))
