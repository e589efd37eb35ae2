"""The proxy does what its conditions say. The rules are those at the head of ``proxy.py``."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from tests.faults.frames import Api, FrameReader
from tests.faults.proxy import BOTH, Action, Conditions, Proxy, Way
from tests.waiting import wait_until

DEADLINE_S = 20.0
NOTHING_S = 0.2
"""How long nothing must come before we believe that nothing comes."""


class Echo(socketserver.ThreadingTCPServer):
    """Sends back what it gets, and keeps it."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _EchoHandler)
        self.heard = bytearray()


class _EchoHandler(socketserver.BaseRequestHandler):
    server: Echo

    def handle(self) -> None:
        try:
            while data := self.request.recv(65536):
                self.server.heard += data
                self.request.sendall(data)
        except ConnectionError:
            return


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.server_address[1]) as made:
        yield made


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), DEADLINE_S)


def receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            break
        data += piece
    return data


def ask(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return receive(connection, len(data))


def comes_nothing(connection: socket.socket) -> bool:
    connection.settimeout(NOTHING_S)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(DEADLINE_S)
    return False


def is_cut(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def is_refused(proxy: Proxy) -> bool:
    """Whether a new connection is reset, which the client may hear of before or after it is made."""
    try:
        with connect(proxy) as connection:
            return is_cut(connection)
    except ConnectionError:
        return True


def request(api: int, correlation: int, body: bytes = b"") -> bytes:
    frame = struct.pack(">hhi", api, 0, correlation) + body
    return struct.pack(">i", len(frame)) + frame


class Responder(Echo):
    """Answers Kafka requests with their correlation id and their body."""

    def __init__(self) -> None:
        socketserver.ThreadingTCPServer.__init__(self, ("127.0.0.1", 0), _ResponderHandler)
        self.heard = bytearray()
        self.requests: list[tuple[int, int]] = []


class _ResponderHandler(socketserver.BaseRequestHandler):
    server: Responder

    def handle(self) -> None:
        frames = FrameReader()
        try:
            while data := self.request.recv(65536):
                for frame in frames.feed(data):
                    api, _, correlation = struct.unpack_from(">hhi", frame, 4)
                    self.server.requests.append((api, correlation))
                    answer = struct.pack(">i", correlation) + frame[12:]
                    self.request.sendall(struct.pack(">i", len(answer)) + answer)
        except ConnectionError:
            return


@pytest.fixture
def responder() -> Iterator[Responder]:
    server = Responder()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def broker(responder: Responder) -> Iterator[Proxy]:
    with Proxy(responder.server_address[1], kafka=True) as made:
        yield made


def answered(connection: socket.socket) -> int:
    """The correlation id of the next response."""
    (size,) = struct.unpack(">i", receive(connection, 4))
    correlation: int = struct.unpack_from(">i", receive(connection, size))[0]
    return correlation


def test_all_bytes_pass_unchanged_both_ways(proxy: Proxy) -> None:
    data = bytes(range(256)) * 20_000
    with connect(proxy) as connection:
        threading.Thread(target=connection.sendall, args=(data,), daemon=True).start()
        assert receive(connection, len(data)) == data
    assert proxy.bytes_carried == 2 * len(data)


def test_the_end_of_one_side_is_passed_on_to_the_other(proxy: Proxy, echo: Echo) -> None:
    with connect(proxy) as connection:
        ask(connection, b"x")
        assert len(proxy.connections) == 1
    wait_until(lambda: not proxy.connections, DEADLINE_S, "the end")
    assert bytes(echo.heard) == b"x"


def test_a_broker_that_is_away_looks_as_it_would_without_us() -> None:
    with Proxy(1) as proxy:
        assert is_refused(proxy)


def test_cut_resets_what_is_there_and_new_connections_are_well(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        ask(connection, b"x")
        proxy.cut()
        assert is_cut(connection)
    with connect(proxy) as connection:
        assert ask(connection, b"y") == b"y"


def test_refused_connections_do_not_reach_the_broker(proxy: Proxy, echo: Echo) -> None:
    with connect(proxy) as old:
        ask(old, b"old")
        with proxy.under(Conditions(refuses=True)):
            assert is_refused(proxy)
            assert ask(old, b"er") == b"er"
        with connect(proxy) as connection:
            assert ask(connection, b"new") == b"new"
    assert bytes(echo.heard) == b"oldernew"


def test_latency_delays_each_way_and_not_each_piece(proxy: Proxy) -> None:
    data = b"x" * 300_000
    with proxy.under(Conditions(latency_s=0.3)), connect(proxy) as connection:
        began = time.monotonic()
        assert ask(connection, data) == data
        assert 0.6 <= time.monotonic() - began < 10 * 0.6


def test_latency_that_ends_does_not_hold_what_is_on_its_way(proxy: Proxy) -> None:
    with connect(proxy) as connection, proxy.under(Conditions(latency_s=600)):
        connection.sendall(b"x")
        assert comes_nothing(connection)
        proxy.set(Conditions())
        assert receive(connection, 1) == b"x"


def test_bandwidth_is_limited(proxy: Proxy) -> None:
    with proxy.under(Conditions(bytes_per_s=100_000)), connect(proxy) as connection:
        began = time.monotonic()
        assert ask(connection, b"x" * 50_000) == b"x" * 50_000
        assert time.monotonic() - began >= 0.4


@pytest.mark.parametrize("way", list(Way))
def test_rule_3_what_is_swallowed_on_one_way_is_gone_and_the_connection_is_cut_afterwards(
    proxy: Proxy, echo: Echo, way: Way
) -> None:
    with connect(proxy) as connection, connect(proxy) as idle:
        assert ask(idle, b"idle") == b"idle"
        with proxy.under(Conditions(swallowed=frozenset({way}))):
            connection.sendall(b"gone")
            assert comes_nothing(connection)
        assert is_cut(connection)
        assert ask(idle, b"there") == b"there"
    assert (b"gone" in echo.heard) is (way is Way.TO_CLIENT)


def test_a_black_hole_accepts_new_connections(proxy: Proxy) -> None:
    with proxy.under(Conditions(swallowed=BOTH)), connect(proxy) as connection:
        connection.sendall(b"x")
        assert comes_nothing(connection)


def test_what_is_held_arrives_when_that_is_over(proxy: Proxy, echo: Echo) -> None:
    with connect(proxy) as connection:
        with proxy.under(Conditions(held=frozenset({Way.TO_BROKER}))):
            connection.sendall(b"late")
            assert comes_nothing(connection)
            assert not echo.heard
        assert receive(connection, 4) == b"late"


def test_a_connection_is_cut_in_the_middle_after_so_many_bytes(proxy: Proxy, echo: Echo) -> None:
    with connect(proxy) as connection, proxy.under(Conditions(cut_after_bytes=5)):
        connection.sendall(b"1234567")
        wait_until(lambda: bytes(echo.heard) == b"12345", DEADLINE_S, "the first bytes")
        wait_until(lambda: is_cut(connection), DEADLINE_S, "the cut")


def test_half_open_the_client_is_not_told(proxy: Proxy, echo: Echo) -> None:
    with connect(proxy) as connection:
        ask(connection, b"x")
        proxy.half_open()
        connection.sendall(b"into the void")
        assert comes_nothing(connection)
        assert bytes(echo.heard) == b"x"
        proxy.cut()
        assert is_cut(connection)


def test_rule_1_a_proxy_of_bytes_intercepts_nothing(proxy: Proxy) -> None:
    with pytest.raises(ValueError, match="kafka=True"), proxy.intercepting(Api.END_TXN, Way.TO_CLIENT, Action.LOSE):
        pass


def test_a_lost_response_leaves_the_connection_and_the_others(broker: Proxy, responder: Responder) -> None:
    with connect(broker) as connection, broker.intercepting(Api.END_TXN, Way.TO_CLIENT, Action.LOSE) as lost:
        for correlation, api in enumerate((Api.PRODUCE, Api.END_TXN, Api.PRODUCE, Api.END_TXN)):
            connection.sendall(request(api, correlation, b"body" * correlation))
        assert [answered(connection) for _ in range(3)] == [0, 2, 3]
    assert lost.hits == 1
    assert len(responder.requests) == 4


def test_a_lost_request_does_not_reach_the_broker(broker: Proxy, responder: Responder) -> None:
    with connect(broker) as connection, broker.intercepting(Api.PRODUCE, Way.TO_BROKER, Action.LOSE, times=2):
        for correlation in range(3):
            connection.sendall(request(Api.PRODUCE, correlation))
        assert answered(connection) == 2
    assert responder.requests == [(Api.PRODUCE, 2)]


def test_a_response_can_be_lost_with_its_connection(broker: Proxy, responder: Responder) -> None:
    with connect(broker) as connection, broker.intercepting(Api.END_TXN, Way.TO_CLIENT, Action.CUT):
        connection.sendall(request(Api.END_TXN, 1))
        assert is_cut(connection)
    assert responder.requests == [(Api.END_TXN, 1)]


def test_a_delayed_response_holds_what_is_behind_it(broker: Proxy) -> None:
    seen: list[float] = []
    delaying = broker.intercepting(
        Api.END_TXN, Way.TO_CLIENT, Action.DELAY, delay_s=0.3, then=lambda: seen.append(time.monotonic())
    )
    with connect(broker) as connection, delaying as delayed:
        connection.sendall(request(Api.END_TXN, 1) + request(Api.PRODUCE, 2))
        assert answered(connection) == 1
        assert time.monotonic() - seen[0] >= 0.3
        assert answered(connection) == 2
    assert delayed.delivered == 1


def test_a_stray_request_reaches_the_broker_after_its_client_has_lost_the_connection(
    broker: Proxy, responder: Responder
) -> None:
    with (
        connect(broker) as connection,
        broker.intercepting(Api.END_TXN, Way.TO_BROKER, Action.STRAY, delay_s=0.5) as stray,
    ):
        connection.sendall(request(Api.END_TXN, 7))
        assert is_cut(connection)
        assert responder.requests == []
        with connect(broker) as other:
            other.sendall(request(Api.PRODUCE, 8))
            assert answered(other) == 8
        wait_until(lambda: stray.delivered, DEADLINE_S, "the stray request's answer")
    assert responder.requests == [(Api.PRODUCE, 8), (Api.END_TXN, 7)]


def test_a_frame_is_whole_however_it_is_cut_up() -> None:
    frames = FrameReader()
    stream = request(1, 2, b"abc") + request(3, 4)
    assert [frame for byte in stream for frame in frames.feed(bytes([byte]))] == [stream[:15], stream[15:]]
    assert list(frames.feed(stream)) == [stream[:15], stream[15:]]
