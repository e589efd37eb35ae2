"""Header, range and peak of a diffractometer's CSV: a block of conditions, then angle and intensity.

The format, as the instrument writes it (spaces, trailing commas, line ends and byte order marks vary)::

    [Measurement conditions]
    Anode material,Cu
    Generator voltage, 45
    Divergence slit,Fixed,0.05mm
    File date and time,02/Sep/2019 15:57
    No. of points, 979
    [Scan points]
    Angle,Intensity
    0.11000,681932.0
"""

from __future__ import annotations

import codecs
import math
import re
from datetime import datetime
from typing import Any, Final

from ray_reproducer.data_file import DataFile

CONDITIONS: Final = "Measurement conditions"
POINTS: Final = "Scan points"
DATE: Final = "File date and time"
DECLARED_POINTS: Final = "No. of points"
FREE_TEXT: Final = frozenset({"Sample identification", "Comment"})
"""Written by people: kept as it is, also when it looks like a number (sample 007) or has commas."""
DATE_FORMATS: Final = tuple(
    f"{day} %H:%M{seconds}"
    for day in ("%d/%b/%Y", "%d-%b-%Y", "%Y-%m-%d")  # only what leaves no doubt which is the month
    for seconds in ("", ":%S")
)

_INTEGER: Final = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})")
_DECIMAL: Final = re.compile(r"[+-]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][+-]?[0-9]{1,2})?")


def xrd_csv(datafile: DataFile) -> dict[str, Any]:
    """Read a diffractometer's CSV.

    Returns:
        ``measurement_conditions``: the header, each value a number, a text, None if empty, or a list of these.
        ``measured_at``: the header's date in ISO 8601 (no time zone: the file names none), None if not understood.
        ``columns``, ``n_points``, and ``n_points_declared`` if the header says another number.
        ``range`` (first, last, step: mean distance of two points), ``intensity`` (min, max, mean) and ``peak``
        (angle and intensity of the strongest point), each in the file's units and None if there are no points.

    Raises:
        ValueError: a section or the column names are missing, or a line is no data; says which line.
    """
    lines = _text(datafile.bytestring).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    start = _find(lines, CONDITIONS, 0)
    end = _find(lines, POINTS, start + 1)
    conditions = _conditions(lines, start + 1, end)
    names = next((number for number in range(end + 1, len(lines)) if lines[number].strip(" ,\t")), None)
    if names is None:
        raise ValueError(f"no column names after [{POINTS}] in line {end + 1}")
    columns = _cells(lines[names])
    if len(columns) < 2 or isinstance(_value(columns[0]), (int, float)):
        raise ValueError(
            f"line {names + 1}: column names expected, such as Angle,Intensity; found {_quoted(lines[names])}"
        )
    angles, intensities = _points(lines, names + 1)
    declared = conditions.get(DECLARED_POINTS)
    return {
        "measurement_conditions": conditions,
        "measured_at": _iso(conditions.get(DATE)),
        "columns": columns,
        "n_points": len(angles),
        **({"n_points_declared": declared} if declared not in (None, len(angles)) else {}),
        **_summary(angles, intensities),
    }


def _text(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")  # older instruments; every byte is a character there


def _find(lines: list[str], section: str, start: int) -> int:
    wanted = f"[{section}]".lower()
    for number in range(start, len(lines)):
        line = lines[number]
        if "[" in line and line.strip(" ,\t").lower() == wanted:
            return number
    where = f"in {len(lines)} lines" if start == 0 else f"from line {start + 1} to the last line, {len(lines)}"
    raise ValueError(f"no [{section}] {where}; line 1 is {_quoted(lines[0])}")


def _conditions(lines: list[str], start: int, end: int) -> dict[str, Any]:
    conditions: dict[str, Any] = {}
    for number in range(start, end):
        key, *cells = _cells(lines[number])
        if not key and not cells:
            continue
        if not key:
            raise ValueError(f"line {number + 1}: a value without a name: {_quoted(lines[number])}")
        if key in conditions:
            raise ValueError(f"line {number + 1}: {key!r} for the second time")
        if key in FREE_TEXT:
            conditions[key] = ", ".join(cells) or None
        else:
            values = [_value(cell) for cell in cells]
            conditions[key] = values if len(values) > 1 else values[0] if values else None
    return conditions


def _cells(line: str) -> list[str]:
    """Split at commas, without spaces around the cells and without empty cells at the end; at least one cell."""
    return [cell.strip() for cell in line.rstrip(" ,\t").split(",")]


def _value(cell: str) -> Any:
    """A number, a list of numbers with spaces between them (``0 0 2``), None, or the text itself."""
    words = cell.split()
    numbers = [_number(word) for word in words]
    if not words or None in numbers:
        return cell or None
    return numbers if len(numbers) > 1 else numbers[0]


def _number(word: str) -> int | float | None:
    if _INTEGER.fullmatch(word):
        return int(word)
    return float(word) if _DECIMAL.fullmatch(word) else None


def _points(lines: list[str], start: int) -> tuple[list[float], list[float]]:
    rows = [line.split(",") for line in lines[start:] if line.strip(" ,\t")]
    try:
        angles = [float(row[0]) for row in rows]
        intensities = [float(row[1]) for row in rows]
    except (ValueError, IndexError):
        raise ValueError(_complaint(lines, start)) from None
    if not math.isfinite(sum(angles) + sum(intensities)):
        raise ValueError(_complaint(lines, start))
    return angles, intensities


def _complaint(lines: list[str], start: int) -> str:
    """Find out which line is no point: done only when one is."""
    for number in range(start, len(lines)):
        if lines[number].strip(" ,\t") and not _is_point(lines[number]):
            return f"line {number + 1}: two numbers expected; found {_quoted(lines[number])}"
    return f"the numbers from line {start + 1} on are too large to be added"


def _is_point(line: str) -> bool:
    try:
        angle, intensity = map(float, line.split(",")[:2])
    except ValueError:
        return False
    return math.isfinite(angle) and math.isfinite(intensity)


def _summary(angles: list[float], intensities: list[float]) -> dict[str, Any]:
    if not angles:
        return {"range": None, "intensity": None, "peak": None}
    top = max(intensities)
    # Rounding takes away what the sum of decimal fractions leaves (0.010000000000000002).
    step = round((angles[-1] - angles[0]) / (len(angles) - 1), 9) if len(angles) > 1 else None
    return {
        "range": {"first": angles[0], "last": angles[-1], "step": step},
        "intensity": {"min": min(intensities), "max": top, "mean": math.fsum(intensities) / len(intensities)},
        "peak": {"angle": angles[intensities.index(top)], "intensity": top},
    }


def _iso(date: object) -> str | None:
    if not isinstance(date, str):
        return None
    for form in DATE_FORMATS:
        try:
            return datetime.strptime(date, form).isoformat()  # noqa: DTZ007 (the file names no time zone)
        except ValueError:
            continue
    return None


def _quoted(line: str) -> str:
    return repr(line if len(line) <= 60 else line[:60] + "...")
