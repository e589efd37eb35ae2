"""A diffractometer's CSV, in all the states in which it arrives."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer.core.chunk import FileVersion
from ray_reproducer.data_file import DataFile
from ray_reproducer.extractors.xrd_csv import xrd_csv

Make = Callable[..., DataFile]

SCAN = """[Measurement conditions]
Sample identification,
Comment,
Anode material,Cu
K-Alpha1 wavelength,1.5405980
Divergence slit,Fixed,0.05mm
Monochromator used,YES
Generator voltage, 45
File date and time,02/Sep/2019 15:57
Unit cell,TiO2[001]
h k l, 0 0 2
Scan range,0.10500,0.13500
No. of points, 3
Psi,-0.14
[Scan points]
Angle,Intensity
0.11000,681932.0
0.12000,721573.0
0.13000,5.0
"""


def read(text: str) -> dict[str, object]:
    content = text.encode()
    return xrd_csv(DataFile(FileVersion("", "a.csv", "", b"", 1), [content], root=Path("/nowhere")))


def test_everything_about_a_scan() -> None:
    assert read(SCAN) == {
        "measurement_conditions": {
            "Sample identification": None,
            "Comment": None,
            "Anode material": "Cu",
            "K-Alpha1 wavelength": 1.540598,
            "Divergence slit": ["Fixed", "0.05mm"],
            "Monochromator used": "YES",
            "Generator voltage": 45,
            "File date and time": "02/Sep/2019 15:57",
            "Unit cell": "TiO2[001]",
            "h k l": [0, 0, 2],
            "Scan range": [0.105, 0.135],
            "No. of points": 3,
            "Psi": -0.14,
        },
        "measured_at": "2019-09-02T15:57:00",
        "columns": ["Angle", "Intensity"],
        "n_points": 3,
        "range": {"first": 0.11, "last": 0.13, "step": 0.01},
        "intensity": {"min": 5.0, "max": 721573.0, "mean": 1403510 / 3},
        "peak": {"angle": 0.12, "intensity": 721573.0},
    }


@pytest.mark.parametrize(
    "content",
    [
        SCAN.replace("\n", "\r\n").encode(),
        SCAN.replace("\n", "\r").encode(),
        SCAN.encode("utf-8-sig"),
        SCAN.encode("utf-16"),
        b"\n\n" + SCAN.encode() + b"\n\n,\n",
        SCAN.replace("\n", ",,\n").encode(),
        SCAN.replace("\n", " ,\t\n").encode(),
        SCAN.replace(",", " , ").replace("\n", "\n  ").encode(),
        SCAN.rstrip("\n").encode(),
        SCAN.replace("[Scan points]", "[SCAN POINTS]").encode(),
    ],
    ids=["CRLF", "CR", "BOM", "UTF-16", "blank lines", "commas", "tabs", "spaces", "no last line end", "capitals"],
)
def test_how_it_is_written_makes_no_difference(make: Make, content: bytes) -> None:
    assert xrd_csv(make(content)) == read(SCAN)


def test_pieces_make_no_difference(make: Make) -> None:
    assert xrd_csv(make(SCAN.encode(), pieces=17)) == read(SCAN)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("Comment,007", "007"),
        ("Comment,1 2", "1 2"),
        ("Comment,one, two,", "one, two"),
        ("Sample identification,3.50", "3.50"),
        ("Tube current [mA],40", 40),
        ("Tube current [mA]", None),
        ("x,007", "007"),
        ("x,+1.50", 1.5),
        ("x,-.5e-3", -0.0005),
        ("x,2E5", 200_000.0),
        ("x,1e999", "1e999"),
        ("x,nan", "nan"),
        ("x,inf", "inf"),
        ("x,1_000", "1_000"),
        ("x,٣", "٣"),
        ("x,123456789012345678901234567890", "123456789012345678901234567890"),
        ("x,1,,3", [1, None, 3]),
        ("x,1 mm", "1 mm"),
        ("x,[a]", "[a]"),
        ("x,0.5 nm µ", "0.5 nm µ"),
    ],
)
def test_values_are_numbers_texts_or_lists(line: str, value: object) -> None:
    text = SCAN.replace("Sample identification,\nComment,\n", "")
    conditions = read(text.replace("Psi,-0.14", line))["measurement_conditions"]
    assert isinstance(conditions, dict)
    found = conditions[line.partition(",")[0]]
    assert (found, type(found)) == (value, type(value))


def test_latin_1_of_older_instruments(make: Make) -> None:
    content = SCAN.replace("Psi,", "Psi [°],").encode("latin-1")
    assert xrd_csv(make(content))["measurement_conditions"]["Psi [°]"] == -0.14


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        ("02/Sep/2019 15:57:03", "2019-09-02T15:57:03"),
        ("02-Sep-2019 15:57", "2019-09-02T15:57:00"),
        ("2019-09-02 15:57:00", "2019-09-02T15:57:00"),
        ("02/09/2019 15:57", None),  # February or September?
        ("31/Feb/2019 15:57", None),
        ("yesterday", None),
        ("", None),
        ("2019", None),
    ],
)
def test_the_date_is_understood_only_without_doubt(date: str, expected: str | None) -> None:
    assert read(SCAN.replace("02/Sep/2019 15:57", date))["measured_at"] == expected


def test_no_date_at_all() -> None:
    assert read(SCAN.replace("File date and time,02/Sep/2019 15:57\n", ""))["measured_at"] is None


def test_a_wrong_number_of_points_is_said() -> None:
    result = read(SCAN.replace("No. of points, 3", "No. of points, 4"))
    assert (result["n_points"], result["n_points_declared"]) == (3, 4)
    assert "n_points_declared" not in read(SCAN)


def test_a_scan_that_was_stopped_at_once_has_no_range_and_no_peak() -> None:
    result = read(SCAN.partition("0.11000")[0])
    assert (result["n_points"], result["range"], result["peak"]) == (0, None, None)


def test_one_point_has_no_step() -> None:
    assert read(SCAN.partition("0.12000")[0])["range"] == {"first": 0.11, "last": 0.11, "step": None}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", r"no \[Measurement conditions\] in 1 lines; line 1 is ''"),
        ("a,b\n1,2\n", r"no \[Measurement conditions\] in 3 lines; line 1 is 'a,b'"),
        (SCAN.replace("[Scan points]", "[Points]"), r"no \[Scan points\] from line 2 to the last line, 20"),
        (SCAN.partition("Angle")[0], r"no column names after \[Scan points\] in line 15"),
        (SCAN.replace("Angle,Intensity\n", ""), r"line 16: column names expected.*'0.11000,681932.0'"),
        (SCAN.replace("Angle,Intensity", "Angle"), r"line 16: column names expected"),
        (SCAN.replace("0.12000,721573.0", "0.12000"), r"line 18: two numbers expected; found '0.12000'"),
        (SCAN.replace("0.12000,721573.0", "0.12000,x"), r"line 18: two numbers expected; found '0.12000,x'"),
        (SCAN.replace("0.12000,", "nan,"), r"line 18: two numbers expected; found 'nan,"),
        (SCAN.replace("721573.0", "-inf"), r"line 18"),
        (SCAN + "[Something else]\n", r"line 20: two numbers expected; found '\[Something else\]'"),
        (SCAN.replace("0.11000,681932.0", "1e308,1e308"), r"line 17 on are too large"),
        (SCAN.replace("Psi,", ","), r"line 14: a value without a name: ',-0.14'"),
        (SCAN.replace("Psi,", "Unit cell,"), r"line 14: 'Unit cell' for the second time"),
        ("x" * 10_000, r"line 1 is 'x{60}\.\.\.'$"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read(text)


@given(st.binary(max_size=400), st.integers(0, len(SCAN)), st.integers(0, 40))
def test_junk_gives_json_or_a_value_error(junk: bytes, position: int, removed: int) -> None:
    scan = SCAN.encode()
    content = scan[:position] + junk + scan[position + removed :]
    try:
        result = xrd_csv(DataFile(FileVersion("", "a.csv", "", b"", 1), [content], root=Path("/nowhere")))
    except ValueError as error:
        assert "line" in str(error) or isinstance(error, UnicodeError)
    else:
        assert orjson.loads(orjson.dumps(result)) == result


def test_samples_have_the_peaks_they_were_made_with(samples: Path) -> None:
    peaks = {path.name: xrd_csv(DataFile.from_path(path))["peak"]["angle"] for path in samples.rglob("xrd/**/*.csv")}
    assert peaks.keys() == {"TiO2_film_01.csv", "TiO2_film_02.csv", "SrTiO₃ dünn.csv"}
    for name, angle in {"TiO2_film_01.csv": 25.31, "TiO2_film_02.csv": 27.44, "SrTiO₃ dünn.csv": 46.48}.items():
        assert abs(peaks[name] - angle) <= 0.06


def test_a_thousand_points_take_about_a_millisecond(samples: Path) -> None:
    datafile = DataFile.from_path(samples / "xrd" / "2026-04" / "SrTiO₃ dünn.csv")
    times = []
    for _ in range(30):
        begin = time.process_time()
        xrd_csv(datafile)
        times.append(time.process_time() - begin)
    assert min(times) < 0.005  # five times of what it takes, for slow machines
