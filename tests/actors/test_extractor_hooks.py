"""What a class is told about its own file in the worker, and that it can cost nothing."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from ray_reproducer import DataFile, MetadataJSONReproducer
from ray_reproducer.actors.extraction import ExtractionJob, StoredSegment, TaskAnswer, extract
from ray_reproducer.core.assembly import SegmentSlice
from ray_reproducer.core.chunk import Chunk, FileVersion
from ray_reproducer.core.outcome import Failure
from ray_reproducer.core.segment import pack
from ray_reproducer.extractor_loading import prepare


class Told(MetadataJSONReproducer):
    """Logs what it is told, because that is what comes back from a worker."""

    def _get_metadata_dict_for_file(self, datafile: DataFile) -> Mapping[str, Any]:
        if datafile.bytestring == b"raise":
            raise ValueError("as told")
        return {"content": 2**70 if datafile.bytestring == b"no JSON" else datafile.bytestring.decode()}

    def _failed_computing_processing_result(self, datafile: DataFile, lock: threading.Lock) -> None:
        self._say("failed", datafile, lock)

    def _mismatched_hash_callback(self, datafile: DataFile, lock: threading.Lock) -> None:
        self._say("mismatched", datafile, lock)

    def _say(self, what: str, datafile: DataFile, lock: threading.Lock) -> None:
        assert lock is self.lock
        with lock:
            self.logger.warning("%s %r %s", what, datafile.bytestring, datafile.full_filepath.exists())


class Exits(Told):
    def _say(self, what: str, datafile: DataFile, lock: threading.Lock) -> None:
        raise SystemExit(f"{what}: {datafile.filename}")


def no_class(datafile: DataFile) -> Mapping[str, Any]:
    raise ValueError(datafile.filename)


def answers(
    extractor: Any, tmp_path: Path, contents: Mapping[str, tuple[bytes, bytes]], mode: Literal["memory", "disk"]
) -> TaskAnswer:
    """Run a task on files of (what arrives, what was sent)."""
    loaded = prepare(extractor, "told")
    job = ExtractionJob(str(tmp_path), loaded.pickled, loaded.sys_path, str(tmp_path / "out"), mode, 1_000)
    files, segments = [], {}
    for number, (name, (arrived, sent)) in enumerate(contents.items()):
        version = FileVersion("", name, "", hashlib.sha512(sent).digest(), 1, 0.0)
        chunk = Chunk(version, index=1, write_offset=0, chunk_hash=hashlib.sha512(sent).digest(), data=arrived)
        segments[number] = StoredSegment.of(pack([chunk]))
        files.append((SegmentSlice(number, 0, 1),))
    return extract(job, files, segments)


@pytest.mark.parametrize("mode", ["memory", "disk"])
def test_rule_1_a_class_is_told_with_the_content_at_hand(tmp_path: Path, mode: Literal["memory", "disk"]) -> None:
    made = Told(None, "raw", "metadata", output_dir=tmp_path / "out")
    contents = {
        "good.csv": (b"1", b"1"),
        "raises.csv": (b"raise", b"raise"),
        "no_json.csv": (b"no JSON", b"no JSON"),
        "changed.csv": (b"not what was sent", b"what was sent"),
    }
    answer = answers(made._get_metadata_dict_for_file, tmp_path, contents, mode)
    reasons = [one.reason if isinstance(one, Failure) else one for one in answer.answers]
    assert reasons == [b'{"content":"1"}', "extractor_raised", "not_json", "hash_mismatch"]
    on_disk = mode == "disk"
    assert [text for _, text in answer.said] == [
        f"raises.csv: failed b'raise' {on_disk}",
        f"no_json.csv: failed b'no JSON' {on_disk}",
        # What is not what it should be is not written.
        "changed.csv: mismatched b'not what was sent' False",
    ]


def test_rule_2_what_a_hook_raises_is_logged_and_changes_nothing(tmp_path: Path) -> None:
    made = Exits(None, "raw", "metadata", output_dir=tmp_path / "out")
    contents = {"raises.csv": (b"raise", b"raise"), "changed.csv": (b"x", b"y"), "good.csv": (b"1", b"1")}
    answer = answers(made._get_metadata_dict_for_file, tmp_path, contents, "memory")
    reasons = [one.reason if isinstance(one, Failure) else one for one in answer.answers]
    assert reasons == ["extractor_raised", "hash_mismatch", b'{"content":"1"}']
    first, second = answer.said
    assert (first.level, second.level) == (logging.ERROR, logging.ERROR)
    assert first.text.startswith("raises.csv: _failed_computing_processing_result raised SystemExit\nTraceback")
    assert second.text.startswith("changed.csv: _mismatched_hash_callback raised SystemExit")


def test_a_function_has_no_hooks(tmp_path: Path) -> None:
    answer = answers(no_class, tmp_path, {"a.csv": (b"1", b"1"), "b.csv": (b"1", b"2")}, "memory")
    assert [one.reason for one in answer.answers if isinstance(one, Failure)] == ["extractor_raised", "hash_mismatch"]
    assert answer.said == ()
