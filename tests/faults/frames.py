"""Kafka's requests and responses in a stream of bytes: as much of the protocol as tells one from the other.

Both begin with four bytes of length. A request goes on with the number of its API (int16), the version (int16) and a
correlation id (int32); a response begins with the correlation id of its request.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum

_LENGTH = struct.Struct(">i")
_REQUEST = struct.Struct(">ihhi")
_RESPONSE = struct.Struct(">ii")


class Api(IntEnum):
    """The requests that tests do something to."""

    PRODUCE = 0
    FETCH = 1
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28


class FrameReader:
    """Cuts a stream into whole frames, their lengths included."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take more of the stream; yield the frames that are whole now."""
        self._held += data
        while len(self._held) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._held)[0]
            if len(self._held) < end:
                return
            frame = bytes(self._held[:end])
            del self._held[:end]
            yield frame


def api_and_correlation(request: bytes) -> tuple[int, int]:
    """Return the number of a request's API and its correlation id."""
    _, api, _, correlation = _REQUEST.unpack_from(request)
    return api, correlation


def correlation_of(response: bytes) -> int:
    """Return the correlation id of a response, which is that of its request."""
    correlation: int = _RESPONSE.unpack_from(response)[1]
    return correlation
