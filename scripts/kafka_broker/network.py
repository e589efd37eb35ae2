"""Ports, and whether a broker answers on one."""

from __future__ import annotations

import socket
import struct

_PROBE_TIMEOUT_S = 2.0


def answers(port: int) -> bool:
    """Tell whether clients are served: a Metadata request must name at least one broker that is ready."""
    body = struct.pack(">hhih", 3, 4, 1, -1) + struct.pack(">ib", 0, 0)  # Metadata v4, no client id, no topics
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_PROBE_TIMEOUT_S) as connection:
            connection.sendall(struct.pack(">i", len(body)) + body)
            size = struct.unpack(">i", _receive(connection, 4))[0]
            _correlation, _throttle_ms, brokers = struct.unpack(">iii", _receive(connection, size)[:12])
    except (OSError, struct.error):
        return False
    return bool(brokers >= 1)


def _receive(connection: socket.socket, size: int) -> bytes:
    """Read exactly so many bytes.

    Raises:
        ConnectionError: the other side hung up before.
    """
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise ConnectionError("hung up")
        data += piece
    return data


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def in_use(port: int) -> bool:
    """Tell whether somebody listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
