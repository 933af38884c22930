"""A client of the native protocol in plain Python, written from its description.

It behaves as the clients of the Kollabor project do, so that hubd is tried
with their habits: one asyncio connection with any number of calls in flight,
futures by request_id, JSON as Python's json module writes it (", " and ": "
between tokens, everything beyond ASCII escaped, NaN and Infinity as tokens),
timers that begin when the request has been written, no cancel frame.
"""

import asyncio
import json
import uuid

LINE_LIMIT = 16 * 1024 * 1024


class RpcError(Exception):
    """A call failed. Plain RpcError: the transport or an error_kind of a newer hub."""

    def __init__(self, message, frame=None):
        super().__init__(message)
        self.frame = frame or {}

    @property
    def kind(self):
        return self.frame.get("error_kind")


class RpcTimeoutError(RpcError):
    pass


class RpcMethodNotFound(RpcError):
    pass


class RpcHandlerError(RpcError):
    @property
    def remote_message(self):
        return self.frame.get("error")


class RpcClient:
    """Calls over one connection. `frames` are replies that nobody waited for."""

    def __init__(self, reader, writer, timeout=30.0):
        self.reader, self.writer, self.timeout = reader, writer, timeout
        self.pending = {}
        self.frames = []
        self.closed = None
        self.lock = asyncio.Lock()
        self.task = asyncio.ensure_future(self._read())

    @classmethod
    async def open(cls, path, **options):
        reader, writer = await asyncio.open_unix_connection(path, limit=LINE_LIMIT)
        return cls(reader, writer, **options)

    async def call(self, method, params=None, timeout=None):
        if self.closed is not None:
            raise RpcError("client closed")
        timeout = self.timeout if timeout is None else timeout
        request_id = uuid.uuid4().hex
        future = asyncio.get_running_loop().create_future()
        self.pending[request_id] = future
        frame = {
            "action": "rpc_request",
            "request_id": request_id,
            "method": method,
            "params": params or {},
            "timeout": timeout,
        }
        try:
            async with self.lock:
                self.writer.write(json.dumps(frame, default=str).encode() + b"\n")
                await self.writer.drain()
            # Only now: a server that stops reading would hang every call.
            reply = await asyncio.wait_for(asyncio.shield(future), timeout)
        except asyncio.TimeoutError:
            raise RpcTimeoutError("no reply to %s within %ss" % (method, timeout)) from None
        finally:
            self.pending.pop(request_id, None)
        return self._outcome(reply)

    @staticmethod
    def _outcome(reply):
        kind, error = reply.get("error_kind"), reply.get("error")
        if kind == "not_found":
            raise RpcMethodNotFound(error or "method not found", reply)
        if kind in ("handler", "serialization"):
            raise RpcHandlerError(error or kind, reply)
        if error:
            raise RpcError(error, reply)
        # A kind without a text reads as success.
        return reply.get("result")

    async def _read(self):
        why = "rpc client closed"
        try:
            while line := await self.reader.readline():
                frame = json.loads(line)
                future = self.pending.pop(frame.get("request_id"), None) if isinstance(frame, dict) else None
                if future is not None and not future.done():
                    future.set_result(frame)
                else:
                    self.frames.append(frame)
        except (ValueError, OSError) as error:
            why = "rpc client closed: %s" % error
        finally:
            self._fail(why)

    def _fail(self, why):
        self.closed = why
        for future in self.pending.values():
            if not future.done():
                future.set_exception(RpcError(why))
        self.pending.clear()

    async def close(self):
        self._fail("rpc client closed")
        self.task.cancel()
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass


async def one_shot(path, frame, timeout=5.0, limit=65536):
    """Sends one control frame, takes the first line as the answer, hangs up."""
    reader, writer = await asyncio.wait_for(asyncio.open_unix_connection(path, limit=limit), timeout)
    try:
        writer.write(json.dumps(frame).encode() + b"\n")
        await writer.drain()
        return json.loads(await asyncio.wait_for(reader.readline(), timeout))
    finally:
        writer.close()


class AttachClient:
    """Follows a session the way a terminal client does: a reader of 64 KiB lines.

    A longer line ends it with an exception, as it does the clients of old.
    """

    def __init__(self, path, mode="readonly", client_id="attach-1"):
        self.path, self.mode, self.client_id = path, mode, client_id
        self.ack = None
        self.events = []
        self.heartbeats = 0
        self.news = asyncio.Condition()
        self.ended = False
        self.failure = None

    async def start(self):
        self.reader, self.writer = await asyncio.open_unix_connection(self.path)  # limit 64 KiB
        await self.send({"action": "attach", "mode": self.mode, "client_id": self.client_id})
        self.ack = json.loads(await asyncio.wait_for(self.reader.readline(), 5.0))
        if self.ack.get("type") == "error":
            raise RpcError(self.ack.get("msg"))
        self.task = asyncio.ensure_future(self._read())
        return self

    async def send(self, frame):
        self.writer.write(json.dumps(frame).encode() + b"\n")
        await self.writer.drain()

    async def _read(self):
        try:
            while line := await self.reader.readline():
                event = json.loads(line)
                async with self.news:
                    if event.get("type") == "heartbeat":
                        self.heartbeats += 1
                    else:
                        self.events.append(event)
                    self.news.notify_all()
        except Exception as error:  # the line limit, a broken frame, a reset
            self.failure = error
        async with self.news:
            self.ended = True
            self.news.notify_all()

    async def wait_for(self, condition, timeout=20.0):
        """Waits until condition(events) is true and returns its value."""

        async def until():
            async with self.news:
                await self.news.wait_for(lambda: condition(self.events) or self.ended)
                return condition(self.events)

        value = await asyncio.wait_for(until(), timeout)
        if not value:
            raise AssertionError("the session ended first: %r" % (self.failure,))
        return value

    async def detach(self):
        await self.send({"type": "detach"})
        await asyncio.wait_for(self.task, 5.0)
        self.writer.close()

    def abort(self):
        """Hangs up without a word, as a killed client does."""
        self.writer.transport.abort()
