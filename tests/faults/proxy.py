"""A TCP proxy between program and broker, which does to connections what bad networks do.

Rules:

1. It looks at nothing but bytes. A proxy made with ``kafka=True`` also sees where requests and responses begin, so that
   one of them, chosen by its API, can be lost, delayed or delivered late.
2. ``conditions`` hold for all connections, those that are there and those to come, until others are set.
3. No byte is invented, changed or reordered: a connection from which bytes were taken is cut when that is over.
4. It must be the only way: the broker's advertised listener is the proxy's address.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any

from tests.faults.frames import Api, FrameReader, api_and_correlation, correlation_of

_ADDRESS = "127.0.0.1"
_READ_BYTES = 64 * 1024
_QUEUED = 64
"""Pieces read ahead of a slow way: little, so that the sender feels it."""
_SLICES_PER_S = 20
"""A limited bandwidth is given out in so many slices a second."""
_CALL_S = 10.0
"""How long the proxy's thread may take to carry out a call."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with 0 s: closing sends RST, and throws away what was not sent."""


class Way(Enum):
    """A direction, seen from the proxy."""

    TO_BROKER = "to the broker"
    TO_CLIENT = "to the client"


BOTH = frozenset(Way)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the way is like.

    Attributes:
        latency_s: how much later each byte arrives, each way.
        bytes_per_s: bandwidth of a connection, each way; None: unlimited.
        swallowed: ways on which all bytes vanish (a black hole); connections stay, new ones are accepted.
        held: ways on which bytes wait, and arrive when that is over.
        cut_after_bytes: connections are cut when they have carried so many more, both ways together; None: never.
        refuses: new connections are reset as soon as they are made.
    """

    latency_s: float = 0.0
    bytes_per_s: float | None = None
    swallowed: frozenset[Way] = frozenset()
    held: frozenset[Way] = frozenset()
    cut_after_bytes: int | None = None
    refuses: bool = False


class Action(Enum):
    """What becomes of an intercepted request or response."""

    NOTICE = "it goes on"
    LOSE = "it vanishes; the connection stays"
    CUT = "it vanishes, and the connection is cut"
    DELAY = "it arrives later, and so does all behind it"
    STRAY = "the client's side is cut, and the broker gets it later all the same"


@dataclass(eq=False)
class Interception:
    """Something that is done to requests (``Way.TO_BROKER``) or responses (``Way.TO_CLIENT``) of one API.

    Attributes:
        api: which.
        way: requests or responses.
        action: what becomes of it.
        delay_s: for ``DELAY`` and ``STRAY``.
        times: to so many of them, then no more.
        then: called before the action, in the proxy's thread, so it must not call the proxy: the moment to kill a
            broker at.
        hits: how many it was done to so far; counted when ``then`` has returned.
        delivered: how many of the delayed went on; of ``STRAY``: how many the broker has answered since.
    """

    api: Api
    way: Way
    action: Action
    delay_s: float = 0.0
    times: int = 1
    then: Callable[[], None] | None = None
    hits: int = 0
    delivered: int = 0


class Proxy:
    """Listens on a port of this machine and passes on to another; a context manager that ends it.

    Args:
        upstream_port: of the broker; can be set later.
        kafka: look at requests and responses (rule 1).
    """

    def __init__(self, upstream_port: int = 0, *, kafka: bool = False) -> None:
        self.upstream_port = upstream_port
        self.kafka = kafka
        self.conditions = Conditions()
        self.interceptions: list[Interception] = []
        self.connections: set[_Connection] = set()
        self.accepted = 0
        self.bytes_carried = 0
        self._loop = asyncio.new_event_loop()
        self.changed = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server: asyncio.Server = self._call(self._listen())
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def address(self) -> str:
        """Host and port, as a client's ``bootstrap.servers`` takes them."""
        return f"{_ADDRESS}:{self.port}"

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Cut all connections and stop listening."""
        if self._thread.is_alive():
            self._call(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_CALL_S)
            self._loop.close()

    def set(self, conditions: Conditions) -> None:
        """Let these conditions hold from now on."""
        self._call(self._set(conditions))

    def cut(self) -> None:
        """Reset all connections that there are, both sides."""
        self._call(self._cut())

    def half_open(self) -> None:
        """Close the broker's side of all connections; the client is not told, and what it sends vanishes."""
        self._call(self._half_open())

    @contextmanager
    def under(self, conditions: Conditions) -> Iterator[None]:
        """Let these conditions hold within the context, and none after it."""
        self.set(conditions)
        try:
            yield
        finally:
            self.set(Conditions())

    @contextmanager
    def intercepting(
        self,
        api: Api,
        way: Way,
        action: Action,
        *,
        delay_s: float = 0.0,
        times: int = 1,
        then: Callable[[], None] | None = None,
    ) -> Iterator[Interception]:
        """Do something to the next ``times`` requests or responses of an API within the context."""
        if not self.kafka:
            raise ValueError("this proxy looks at bytes only: make it with kafka=True")
        interception = Interception(api, way, action, delay_s, times, then)
        self.interceptions.append(interception)
        try:
            yield interception
        finally:
            self.interceptions.remove(interception)

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_S)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, _ADDRESS, 0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.conditions.refuses:
            _reset(writer)
            return
        try:
            upstream = await asyncio.open_connection(_ADDRESS, self.upstream_port)
        except OSError:  # the broker is away: the client is to see what it would see without us
            _reset(writer)
            return
        connection = _Connection(self, (reader, writer), upstream)
        self.connections.add(connection)
        # asyncio takes a cancelled connection, as at our end, for an error.
        with contextlib.suppress(asyncio.CancelledError):
            await connection.run()
        self.connections.discard(connection)

    async def _set(self, conditions: Conditions) -> None:
        self.conditions = conditions
        for connection in list(self.connections):
            connection.carried = 0
            if connection.has_lost_bytes and not conditions.swallowed:
                connection.cut()
        before, self.changed = self.changed, asyncio.Event()
        before.set()

    async def _cut(self) -> None:
        for connection in list(self.connections):
            connection.cut()

    async def _half_open(self) -> None:
        for connection in list(self.connections):
            connection.half_open()

    async def _end(self) -> None:
        self._server.close()
        await self._cut()
        ours = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not ours]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(eq=False)
class _Connection:
    proxy: Proxy
    client: _Stream
    broker: _Stream
    carried: int = 0
    has_lost_bytes: bool = False
    is_half_open: bool = False
    stray: Interception | None = None
    """By what the client's side was cut, while the broker's side lives on."""
    apis: dict[int, int] = field(default_factory=dict)
    """Correlation id -> API of the requests that were not answered yet."""

    async def run(self) -> None:
        """Carry bytes both ways until one side ends."""
        await asyncio.gather(
            self._carry(Way.TO_BROKER, self.client[0], self.broker[1]),
            self._carry(Way.TO_CLIENT, self.broker[0], self.client[1]),
        )

    def cut(self) -> None:
        """Reset both sides."""
        _reset(self.client[1])
        _reset(self.broker[1])

    def half_open(self) -> None:
        """Close the broker's side, and keep the client's."""
        self.is_half_open = True
        self.has_lost_bytes = True
        _reset(self.broker[1])

    async def _carry(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pieces: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue(_QUEUED)
        reading = asyncio.create_task(self._read(reader, pieces))
        try:
            while (piece := await pieces.get()) is not None:
                if await self._interfere(way, piece[1]):
                    await self._deliver(way, writer, *piece)
        except (ConnectionError, _CutError):
            self.cut()
        finally:
            reading.cancel()
            # Who still reads there is not to learn that the other side is gone.
            if not (self.is_half_open if way is Way.TO_CLIENT else self.stray is not None):
                writer.close()

    async def _read(self, reader: asyncio.StreamReader, pieces: asyncio.Queue[tuple[float, bytes] | None]) -> None:
        frames = FrameReader()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_READ_BYTES):
                arrived_s = time.monotonic()
                for piece in frames.feed(data) if self.proxy.kafka else (data,):
                    await pieces.put((arrived_s, piece))
        await pieces.put(None)

    async def _interfere(self, way: Way, frame: bytes) -> bool:
        """Do what interceptions ask for; return whether the frame goes on."""
        interception = self._intercepted(way, frame) if self.proxy.kafka else None
        if interception is None:
            return True
        if interception.then is not None:
            interception.then()
        interception.hits += 1
        if interception.action is Action.CUT:
            raise _CutError
        if interception.action is Action.LOSE:
            return False
        if interception.action is Action.STRAY:
            self.stray = interception
            _reset(self.client[1])
        await asyncio.sleep(interception.delay_s)
        interception.delivered += self.stray is None
        return True

    def _intercepted(self, way: Way, frame: bytes) -> Interception | None:
        if way is Way.TO_BROKER:
            api, correlation = api_and_correlation(frame)
            self.apis[correlation] = api
        else:
            api = self.apis.pop(correlation_of(frame), -1)
            if self.stray is not None and self.stray.api == api:
                self.stray.delivered += 1
        for interception in self.proxy.interceptions:
            if interception.api == api and interception.way is way and interception.hits < interception.times:
                return interception
        return None

    async def _deliver(self, way: Way, writer: asyncio.StreamWriter, arrived_s: float, data: bytes) -> None:
        proxy = self.proxy
        while way in proxy.conditions.held:
            await proxy.changed.wait()
        if self._vanishes(way):
            self.has_lost_bytes = True
            return
        await self._until(lambda conditions: arrived_s + conditions.latency_s)
        for piece in _slices(data, proxy.conditions.bytes_per_s):
            began_s = time.monotonic()
            limit = proxy.conditions.cut_after_bytes
            if limit is not None and self.carried + len(piece) > limit:
                writer.write(piece[: limit - self.carried])
                await writer.drain()
                raise _CutError
            self.carried += len(piece)
            proxy.bytes_carried += len(piece)
            writer.write(piece)
            await writer.drain()
            size = len(piece)
            await self._until(lambda conditions: began_s + size / (conditions.bytes_per_s or float("inf")))  # noqa: B023

    def _vanishes(self, way: Way) -> bool:
        side_is_gone = self.is_half_open if way is Way.TO_BROKER else self.stray is not None
        return side_is_gone or way in self.proxy.conditions.swallowed

    async def _until(self, when: Callable[[Conditions], float]) -> None:
        """Wait until a time that follows from the conditions, also when they change meanwhile."""
        while (remaining_s := when(self.proxy.conditions) - time.monotonic()) > 0:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.proxy.changed.wait(), remaining_s)


class _CutError(Exception):
    """The connection is to be cut."""


def _slices(data: bytes, bytes_per_s: float | None) -> Iterator[bytes]:
    size = len(data) if bytes_per_s is None else max(1, int(bytes_per_s / _SLICES_PER_S))
    for start in range(0, len(data), size):
        yield data[start : start + size]


def _reset(writer: asyncio.StreamWriter) -> None:
    end: socket.socket | None = writer.get_extra_info("socket")
    if end is not None and end.fileno() >= 0 and not writer.transport.is_closing():
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
