"""How a set of offsets becomes the fewest bytes: as runs or as bits, plain or deflated.

Rules:

1. A set is given as ascending runs ``(start, stop)``, half open, that neither touch nor overlap, within
   ``[0, length)``. What is read back is the same runs.
2. Each form wins somewhere (bytes; 1 % means that each offset is in the set with a probability of 1 %):

   ====  ================================  ==========  ===========  ===========  ==================
   form  bytes                             1 % of 60k  10 % of 40k  30 % of 24k  every other of 60k
   ====  ================================  ==========  ===========  ===========  ==================
   0     runs, Golomb-Rice                 654         2,421        2,891        7,503
   1     runs, varints, deflated           786         2,625        3,215        76
   2     bits                              7,500       5,000        3,000        7,500
   3     bits, deflated                    920         2,554        2,735        22
   ====  ================================  ==========  ===========  ===========  ==================

3. The work is bounded: a form that would take more than :data:`MAX_RUNS` or :data:`MAX_BITS` is not tried.
4. Bytes that are read are not trusted: no number in them makes anything be allocated before it was compared
   with what it counts, and what inflates to more than :data:`MAX_INFLATED_BYTES` is refused.

Form 0: varint number of runs; parameter for gaps; parameter for lengths; then for each run its gap (to the stop of
the one before, less 1; for the first to 0) and its length less 1. A number n with parameter k is ``n >> k`` ones, a
zero, and the low k bits. Form 1: varint number of runs, all gaps, all lengths, as varints. Bits: highest first, 1 is
in the set, the last byte is filled up with zeros. Varints: 7 bits a byte, lowest first, highest bit set if more follow.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Final

from ray_reproducer.core.errors import CommitMetadataError

Run = tuple[int, int]

MAX_RUNS: Final = 16_384
"""Most runs that are written; 3 kB hold about 3,000 random ones, so more only fit if they follow a pattern."""
MAX_BITS: Final = 131_072
"""Most offsets that are written as bits: to deflate as many takes 3 ms."""
MAX_INFLATED_BYTES: Final = 262_144
"""Most bytes that deflated ones may become: above what MAX_RUNS runs take with numbers of 7 bytes."""
MAX_VARINT: Final = 2**63 - 1
"""Largest number believed: Kafka's offsets are signed 64-bit."""
_VARINT_BITS: Final = 63
_ENOUGH_BYTES: Final = 64
"""A result as small as this is taken without trying the forms that cost more time."""
_RUNS, _RUNS_DEFLATED, _BITS, _BITS_DEFLATED = range(4)


def damaged(what: str) -> CommitMetadataError:
    """Make the error for metadata that is ours but can't be what we wrote."""
    return CommitMetadataError(
        f"the metadata beside the committed offset is damaged: {what}",
        hint="Something changed the group's offsets or their metadata. Commit the offset to start from with empty "
        "metadata (kafka-consumer-groups.sh --reset-offsets does): files that were done above it are done again.",
    )


# ---------------------------------------------------------------------------------------------- choose


def encode_runs(runs: Sequence[Run], length: int, most_bytes: int) -> tuple[int, bytes] | None:
    """Write runs in the form that takes the fewest bytes (rule 2).

    Args:
        runs: ascending, within ``[0, length)``, neither touching nor overlapping.
        length: how many offsets there are.
        most_bytes: how many bytes the result may have.

    Returns:
        The form's number and the bytes; None if no form is small enough.
    """
    found = [(_RUNS, rice)] if (rice := _write_rice(runs, most_bytes)) is not None else []
    if not found or len(found[0][1]) > _ENOUGH_BYTES:
        if len(runs) <= MAX_RUNS:
            found.append((_RUNS_DEFLATED, _deflate(_write_varint_runs(runs))))
        if length <= MAX_BITS:
            bits = _write_bits(runs, length)
            found += [(_BITS, bits), (_BITS_DEFLATED, _deflate(bits))]
    form, data = min(found, key=lambda candidate: len(candidate[1]), default=(_RUNS, None))
    return (form, data) if data is not None and len(data) <= most_bytes else None


def decode_runs(form: int, data: bytes, length: int) -> tuple[Run, ...]:
    """Read what :func:`encode_runs` wrote.

    Raises:
        CommitMetadataError: the bytes are not what it writes.
    """
    readers: dict[int, Callable[[bytes, int], tuple[Run, ...]]] = {
        _RUNS: _read_rice,
        _RUNS_DEFLATED: lambda deflated, offsets: _read_varint_runs(_inflate(deflated), offsets),
        _BITS: _read_bits,
        _BITS_DEFLATED: lambda deflated, offsets: _read_bits(_inflate(deflated), offsets),
    }
    if form not in readers:
        raise damaged(f"there is no form {form} of offsets")
    return readers[form](data, length)


# --------------------------------------------------------------------------------------------- varints


def write_varint(number: int, into: bytearray) -> None:
    """Append a number that is not negative."""
    while number > 0x7F:
        into.append(number & 0x7F | 0x80)
        number >>= 7
    into.append(number)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a number; return it with the place where the next thing begins.

    Raises:
        CommitMetadataError: it ends too early, or is above :data:`MAX_VARINT`.
    """
    number = 0
    for shift in range(0, _VARINT_BITS, 7):
        if at >= len(data):
            raise damaged("it ends in the middle of a number")
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte <= 0x7F:
            return number, at
    raise damaged("a number is too large")


# ------------------------------------------------------------------------------------------------ runs


def _gaps_and_lengths(runs: Sequence[Run]) -> tuple[list[int], list[int]]:
    previous = chain((-1,), (stop for _, stop in runs))
    return [start - before - 1 for before, (start, _) in zip(previous, runs, strict=False)], [
        stop - start - 1 for start, stop in runs
    ]


def _runs(gaps: Iterator[int], lengths: Iterator[int], length: int) -> tuple[Run, ...]:
    runs: list[Run] = []
    stop = -1
    for gap, more in zip(gaps, lengths, strict=True):
        start = stop + gap + 1
        stop = start + more + 1
        if stop > length:
            raise damaged("a run ends above the last offset")
        runs.append((start, stop))
    return tuple(runs)


def _rice_parameter(numbers: Sequence[int]) -> tuple[int, int]:
    """Return the parameter that takes the fewest bits, and how many it takes."""
    if not numbers:
        return 0, 0
    # The best one is next to the logarithm of the mean; below it if a few large numbers pull the mean up.
    guess = (sum(numbers) // len(numbers)).bit_length()
    costs = [(sum(n >> k for n in numbers) + len(numbers) * (k + 1), k) for k in range(max(0, guess - 4), guess + 1)]
    bits, parameter = min(costs)
    return parameter, bits


def _write_rice(runs: Sequence[Run], most_bytes: int) -> bytes | None:
    if len(runs) > most_bytes * 4:  # two bits a run at least
        return None
    gaps, lengths = _gaps_and_lengths(runs)
    gap_parameter, gap_bits = _rice_parameter(gaps)
    length_parameter, length_bits = _rice_parameter(lengths)
    if gap_bits + length_bits > most_bytes * 8:
        return None
    written = bytearray()
    write_varint(len(runs), written)
    written += bytes((gap_parameter, length_parameter))
    bits = "".join(
        [_rice(gap, gap_parameter) + _rice(more, length_parameter) for gap, more in zip(gaps, lengths, strict=True)]
    )
    return bytes(written) + _pack(bits)


def _rice(number: int, parameter: int) -> str:
    ones = "1" * (number >> parameter) + "0"
    return f"{ones}{number & ((1 << parameter) - 1):0{parameter}b}" if parameter else ones


def _read_rice(data: bytes, length: int) -> tuple[Run, ...]:
    count, at = read_varint(data, 0)
    if len(data) < at + 2 or max(data[at], data[at + 1]) > _VARINT_BITS:
        raise damaged("the parameters of its runs are missing or too large")
    parameters = (data[at], data[at + 1])
    bits = _unpack(data[at + 2 :])
    if count * 2 > len(bits):
        raise damaged("it says that there are more runs than it holds")
    numbers: list[int] = []
    place = 0
    for index in range(count * 2):
        parameter = parameters[index % 2]
        zero = bits.find("0", place)
        following = zero + 1 + parameter
        if zero < 0 or following > len(bits):
            raise damaged("it ends in the middle of a run")
        numbers.append(((zero - place) << parameter) + int(bits[zero:following], 2))
        place = following
    if len(bits) - place >= 8 or "1" in bits[place:]:
        raise damaged("something follows its runs")
    return _runs(iter(numbers[::2]), iter(numbers[1::2]), length)


def _write_varint_runs(runs: Sequence[Run]) -> bytes:
    # All gaps, then all lengths: deflates to a fifth less than in turns, because most lengths are 1.
    gaps, lengths = _gaps_and_lengths(runs)
    written = bytearray()
    for number in chain((len(runs),), gaps, lengths):
        write_varint(number, written)
    return bytes(written)


def _read_varint_runs(data: bytes, length: int) -> tuple[Run, ...]:
    count, at = read_varint(data, 0)
    if count * 2 > len(data) - at:
        raise damaged("it says that there are more runs than it holds")
    numbers: list[int] = []
    for _ in range(count * 2):
        number, at = read_varint(data, at)
        numbers.append(number)
    if at != len(data):
        raise damaged("something follows its runs")
    return _runs(iter(numbers[:count]), iter(numbers[count:]), length)


# ------------------------------------------------------------------------------------------------ bits


def _pack(bits: str | bytes | bytearray) -> bytes:
    """Turn digits 0 and 1 into bytes, the last one filled up with zeros."""
    if not bits:
        return b""
    size = (len(bits) + 7) // 8
    return (int(bits, 2) << (size * 8 - len(bits))).to_bytes(size, "big")


def _unpack(data: bytes) -> str:
    # The leading one keeps leading zeros; "0b1" is cut off again.
    return bin(int.from_bytes(b"\x01" + data, "big"))[3:]


def _write_bits(runs: Sequence[Run], length: int) -> bytes:
    digits = bytearray(b"0") * length
    for start, stop in runs:
        digits[start:stop] = b"1" * (stop - start)
    return _pack(digits)


def _read_bits(data: bytes, length: int) -> tuple[Run, ...]:
    if len(data) != (length + 7) // 8:
        raise damaged(f"{length} offsets can't have {len(data)} bytes of bits")
    digits = _unpack(data)
    if "1" in digits[length:]:
        raise damaged("a run ends above the last offset")
    return tuple(found.span() for found in re.finditer("1+", digits))


def _deflate(data: bytes) -> bytes:
    # Level 6: level 9 takes 80 ms where a few bits are set among half a million, for 4 % less.
    deflater = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_FILTERED)
    return deflater.compress(data) + deflater.flush()


def _inflate(data: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise damaged(f"its deflated part can't be read ({error})") from None
    if not inflater.eof or inflater.unused_data:
        raise damaged("its deflated part is cut off, too long, or inflates to too much")
    return inflated
