"""How a set of offsets becomes the fewest bytes: as runs, written in Golomb-Rice codes or deflated.

Rules:

1. A set is given as ascending runs ``(start, stop)``, half open, that neither touch nor overlap, within
   ``[0, length)``. What is read back is the same runs.
2. The smaller of two forms is taken. The first is next to what information theory allows for holes at random, the
   second wins if they follow a pattern, or if there are a few huge gaps among many small ones (bytes; "1 %" means
   that each offset is in the set with a probability of 1 %):

   ====  =======================  =========  ==========  ==========  ==========  ==================
   form  written as               1 % of     10 % of     30 % of     50 % of     every other of
                                  60,000     40,000      24,000      24,000      60,000
   ====  =======================  =========  ==========  ==========  ==========  ==================
   0     runs, Golomb-Rice        614        2,412       2,700       3,007       3,757
   1     runs, varints, deflated  749        2,674       3,282       3,728       80
   none  bits                     7,500      5,000       3,000       3,000       7,500
   none  bits, deflated           991        2,543       2,743       3,005       25
   none  entropy                  605        2,344       2,643       2,999       0
   ====  =======================  =========  ==========  ==========  ==========  ==================

   Bits never win where it matters; that is why there is no form for them.
3. The work is bounded: more than :data:`MAX_RUNS` runs are not written.
4. Bytes that are read are not trusted: no number in them makes anything be allocated before it was compared
   with what it counts, and what inflates to more than :data:`MAX_INFLATED_BYTES` is refused.

A gap is the distance from the stop of the run before, less 1 (for the first run: from 0); a length is given less 1.
Form 0: varint number of runs; varint number of runs longer than 1; three bytes, the parameters of: all gaps; before
each longer run, how many runs of 1 there are; the lengths of the longer runs, less 1 once more. A number n with
parameter k is ``n >> k`` zeros, a one, and the low k bits of n; the last byte is filled up with zeros. Form 1: varint
number of runs, all gaps, all lengths, as varints. Varints: 7 bits a byte, lowest first, highest bit set if more follow.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Final

from ray_reproducer.core.errors import CommitMetadataError

Run = tuple[int, int]

MAX_RUNS: Final = 16_384
"""Most runs that are written; 3 kB hold about 3,000 random ones, so more only fit if they follow a pattern."""
MAX_INFLATED_BYTES: Final = 262_144
"""Most bytes that deflated ones may become: above what MAX_RUNS runs take with numbers of 7 bytes."""
MAX_VARINT: Final = 2**63 - 1
"""Largest number believed: Kafka's offsets are signed 64-bit."""
_VARINT_BITS: Final = 63
_ENOUGH_BYTES: Final = 64
"""A result as small as this is taken without trying the other form."""
_RICE, _DEFLATED = range(2)


def damaged(what: str) -> CommitMetadataError:
    """Make the error for metadata that is ours but can't be what we wrote."""
    return CommitMetadataError(
        f"the metadata beside the committed offset is damaged: {what}",
        hint="Something changed the group's offsets or their metadata. Commit the offset to start from with empty "
        "metadata (kafka-consumer-groups.sh --reset-offsets does): files that were done above it are done again.",
    )


# ---------------------------------------------------------------------------------------------- choose


def encode_runs(runs: Sequence[Run], most_bytes: int) -> tuple[int, bytes] | None:
    """Write runs in the form that takes the fewest bytes (rule 2).

    Args:
        runs: ascending, from 0 on, neither touching nor overlapping.
        most_bytes: how many bytes the result may have.

    Returns:
        The form's number and the bytes; None if no form is small enough, or there are too many runs.
    """
    if len(runs) > MAX_RUNS:
        return None
    rice = _write_rice(runs, most_bytes)
    if rice is not None and len(rice) <= min(_ENOUGH_BYTES, most_bytes):
        return _RICE, rice
    deflated = _deflate(_write_varints(runs))
    best = (_DEFLATED, deflated) if rice is None or len(deflated) < len(rice) else (_RICE, rice)
    return best if len(best[1]) <= most_bytes else None


def decode_runs(form: int, data: bytes, length: int) -> tuple[Run, ...]:
    """Read what :func:`encode_runs` wrote.

    Raises:
        CommitMetadataError: the bytes are not what it writes.
    """
    if form == _RICE:
        return _read_rice(data, length)
    if form == _DEFLATED:
        return _read_varints(_inflate(data), length)
    raise damaged(f"there is no form {form} of runs")


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


def _runs(gaps: Sequence[int], lengths: Sequence[int], length: int) -> tuple[Run, ...]:
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
    costs = [(sum([n >> k for n in numbers]) + len(numbers) * (k + 1), k) for k in range(max(0, guess - 4), guess + 1)]
    bits, parameter = min(costs)
    return parameter, bits


def _write_rice(runs: Sequence[Run], most_bytes: int) -> bytes | None:
    if len(runs) > most_bytes * 8:
        return None
    gaps, lengths = _gaps_and_lengths(runs)
    # Most runs have length 1: only the others' lengths are written, and how many runs are between them.
    longer = [index for index, more in enumerate(lengths) if more]
    between = [index - before - 1 for before, index in pairwise([-1, *longer])]
    lists = (gaps, between, [lengths[index] - 1 for index in longer])
    parameters = [_rice_parameter(numbers) for numbers in lists]
    if sum(bits for _, bits in parameters) > most_bytes * 8:
        return None
    written = bytearray()
    write_varint(len(runs), written)
    write_varint(len(longer), written)
    written += bytes(parameter for parameter, _ in parameters)
    digits = [_rice_digits(numbers, parameter) for numbers, (parameter, _) in zip(lists, parameters, strict=True)]
    return bytes(written) + _pack("".join(digits))


def _rice_digits(numbers: Sequence[int], parameter: int) -> str:
    # The one and the low bits, as one number, with zeros in front: a single formatting for each.
    one = 1 << parameter
    words = {n: f"{one | n & (one - 1):0{(n >> parameter) + parameter + 1}b}" for n in set(numbers)}
    return "".join([words[n] for n in numbers])


def _read_rice(data: bytes, length: int) -> tuple[Run, ...]:
    n_runs, at = read_varint(data, 0)
    n_longer, at = read_varint(data, at)
    parameters, bits = data[at : at + 3], _unpack(data[at + 3 :])
    if len(parameters) < 3 or max(parameters) > _VARINT_BITS:
        raise damaged("the parameters of its runs are missing or too large")
    if n_longer > n_runs or n_runs > len(bits):
        raise damaged("it says that there are more runs than it holds")
    gaps, place = _read_rice_digits(bits, 0, n_runs, parameters[0])
    between, place = _read_rice_digits(bits, place, n_longer, parameters[1])
    longer, place = _read_rice_digits(bits, place, n_longer, parameters[2])
    if len(bits) - place >= 8 or "1" in bits[place:]:
        raise damaged("something follows its runs")
    lengths = [0] * n_runs
    index = -1
    for skipped, more in zip(between, longer, strict=True):
        index += skipped + 1
        if index >= n_runs:
            raise damaged("it has lengths of more runs than there are")
        lengths[index] = more + 1
    return _runs(gaps, lengths, length)


def _read_rice_digits(bits: str, place: int, count: int, parameter: int) -> tuple[list[int], int]:
    numbers: list[int] = []
    for _ in range(count):
        one = bits.find("1", place)
        following = one + 1 + parameter
        if one < 0 or following > len(bits):
            raise damaged("it ends in the middle of a run")
        # The digit that is read too much, the one, adds 1 << parameter.
        numbers.append((one - place - 1 << parameter) + int(bits[one:following], 2))
        place = following
    return numbers, place


def _write_varints(runs: Sequence[Run]) -> bytes:
    # All gaps, then all lengths: deflates to a sixth less than in turns, because most lengths are the same.
    gaps, lengths = _gaps_and_lengths(runs)
    written = bytearray()
    for number in chain((len(runs),), gaps, lengths):
        write_varint(number, written)
    return bytes(written)


def _read_varints(data: bytes, length: int) -> tuple[Run, ...]:
    count, at = read_varint(data, 0)
    if count * 2 > len(data) - at:
        raise damaged("it says that there are more runs than it holds")
    numbers: list[int] = []
    for _ in range(count * 2):
        number, at = read_varint(data, at)
        numbers.append(number)
    if at != len(data):
        raise damaged("something follows its runs")
    return _runs(numbers[:count], numbers[count:], length)


# ----------------------------------------------------------------------------------------------- bytes


def _pack(digits: str) -> bytes:
    """Turn digits 0 and 1 into bytes, the last one filled up with zeros."""
    size = (len(digits) + 7) // 8
    return (int(digits or "0", 2) << (size * 8 - len(digits))).to_bytes(size, "big")


def _unpack(data: bytes) -> str:
    # The leading one keeps leading zeros; "0b1" is cut off again.
    return bin(int.from_bytes(b"\x01" + data, "big"))[3:]


def _deflate(data: bytes) -> bytes:
    # Raw deflate: zlib's header and checksum would take 6 bytes, and the text has a checksum of its own.
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
