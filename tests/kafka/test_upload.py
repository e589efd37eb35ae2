"""Sending a directory. The rules are those at the head of ``kafka/upload.py``."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException

from ray_reproducer.config import MAX_CHUNK_BYTES
from ray_reproducer.core.chunk import decode
from ray_reproducer.core.errors import BrokerError
from ray_reproducer.kafka import upload as module
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.file_tree import walk
from ray_reproducer.kafka.upload import UploadCancelledError, UploadSummary, measure, upload_directory
from tests.kafka.reading import read_all

STUCK_S = 20.0
"""Longer than any upload of these tests takes, in seconds."""


def _write(root: Path, files: dict[str, bytes]) -> None:
    for relative, content in files.items():
        path = root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _stuck() -> Callable[[], bool]:
    """Say when an upload has taken so long that it will never end."""
    deadline = time.monotonic() + STUCK_S
    return lambda: time.monotonic() > deadline


def _rebuild(clients: ClientConfigs) -> dict[str, bytes]:
    """Put together what is on the topic, checking every field on the way."""
    parts: dict[str, dict[int, bytes]] = {}
    hashes: dict[str, bytes] = {}
    for message in read_all(clients, "raw"):
        chunk = decode(message.value())
        assert hashlib.sha512(chunk.data).digest() == chunk.chunk_hash
        path = chunk.version.relative_path
        assert (message.key() or b"").decode().endswith(f"_chunk_{chunk.index}_of_{chunk.version.n_chunks}")
        assert hashes.setdefault(path, chunk.version.file_hash) == chunk.version.file_hash
        parts.setdefault(path, {})[chunk.write_offset] = chunk.data
    files = {path: b"".join(data for _, data in sorted(pieces.items())) for path, pieces in parts.items()}
    assert all(hashlib.sha512(content).digest() == hashes[path] for path, content in files.items())
    return files


def test_nested_unicode_and_multi_chunk_files_arrive_whole(embedded: ClientConfigs, tmp_path: Path) -> None:
    files = {
        "root.csv": b"a,b\n1,2\n",
        "a/b/exact.bin": os.urandom(3000),
        "a/b/more.bin": os.urandom(3001),
        "ä ö/中文 é.txt": "naïve".encode() * 999,
        "one byte": b"x",
    }
    _write(tmp_path, files)
    summary = upload_directory(embedded, "raw", tmp_path, chunk_size_bytes=1000)
    assert _rebuild(embedded) == files
    assert (summary.files, summary.failures, summary.stopped) == (5, [], False)
    assert summary.size_bytes == summary.acknowledged_bytes == sum(map(len, files.values()))
    assert summary.messages == 1 + 3 + 4 + 6 + 1
    assert measure(tmp_path) == (summary.files, summary.size_bytes)


def test_the_modification_time_travels(embedded: ClientConfigs, tmp_path: Path) -> None:
    _write(tmp_path, {"f": b"x"})
    os.utime(tmp_path / "f", (1, 1_700_000_000.5))
    upload_directory(embedded, "raw", tmp_path)
    (message,) = read_all(embedded, "raw")
    assert decode(message.value()).version.mtime == 1_700_000_000.5
    assert message.key() == b"_f_chunk_1_of_1"


def test_rule_1_files_by_name_then_subdirectories_by_name(tmp_path: Path) -> None:
    _write(tmp_path, dict.fromkeys(["b/2", "b/1", "a/z/1", "a/1", "z", "B", "a.txt"], b"x"))
    order = [found.relative for found in walk(tmp_path, lambda path, reason: pytest.fail(f"{path} {reason}"))]
    assert order == ["B", "a.txt", "z", "a/1", "a/z/1", "b/1", "b/2"]


def test_rule_1_links_are_not_followed(embedded: ClientConfigs, tmp_path: Path) -> None:
    _write(tmp_path, {"tree/real": b"x", "outside/secret": b"y"})
    (tmp_path / "tree/link").symlink_to(tmp_path / "outside/secret")
    (tmp_path / "tree/directory").symlink_to(tmp_path / "outside", target_is_directory=True)
    (tmp_path / "tree/loop").symlink_to(tmp_path / "tree", target_is_directory=True)
    os.mkfifo(tmp_path / "tree/pipe")
    summary = upload_directory(embedded, "raw", tmp_path / "tree")
    assert _rebuild(embedded) == {"real": b"x"}
    assert summary.links == 4


def test_rule_1_what_becomes_a_link_or_a_pipe_before_its_turn_is_a_failure_and_the_others_go_on(
    embedded: ClientConfigs, tmp_path: Path
) -> None:
    files = ["tree/a", "tree/link", "tree/pipe", "tree/z", "tree/d/in", "outside/secret", "outside/in"]
    _write(tmp_path, dict.fromkeys(files, b"x"))
    tree, outside = tmp_path / "tree", tmp_path / "outside"

    def change(_sent_bytes: int) -> None:
        if (tree / "link").is_symlink():
            return
        (tree / "link").unlink()
        (tree / "link").symlink_to(outside / "secret")
        (tree / "pipe").unlink()
        os.mkfifo(tree / "pipe")
        (tree / "d").rename(tree / "moved")
        (tree / "d").symlink_to(outside, target_is_directory=True)

    summary = upload_directory(embedded, "raw", tree, window=change)
    assert set(_rebuild(embedded)) == {"a", "z"}
    assert [str(failure) for failure in summary.failures] == [
        "link: can't be read: it was listed as a file and is none any more",
        "pipe: can't be read: it was listed as a file and is none any more",
        "d/: can't be listed: Not a directory",
    ]


def test_rule_1_the_regular_expression_matches_the_beginning_of_the_path(
    embedded: ClientConfigs, tmp_path: Path
) -> None:
    _write(tmp_path, dict.fromkeys(["a/1.csv", "a/1.log", "ba/1.csv"], b"x"))
    summary = upload_directory(embedded, "raw", tmp_path, filepath_regex=r"a/.*\.csv$")
    assert set(_rebuild(embedded)) == {"a/1.csv"}
    assert (summary.files, summary.files_filtered) == (1, 2)
    assert measure(tmp_path, r"a/.*\.csv$") == (1, 1)


def test_rule_4_empty_files_are_counted_not_sent(embedded: ClientConfigs, tmp_path: Path) -> None:
    _write(tmp_path, {"empty": b"", "full": b"x"})
    summary = upload_directory(embedded, "raw", tmp_path)
    assert set(_rebuild(embedded)) == {"full"}
    assert (summary.files, summary.files_empty, summary.failures) == (1, 1, [])


def test_rule_3_a_name_that_is_not_utf_8_is_a_failure_and_the_others_go_on(
    embedded: ClientConfigs, tmp_path: Path
) -> None:
    _write(tmp_path, {"fine": b"x"})
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff")).write_bytes(b"x")
    summary = upload_directory(embedded, "raw", tmp_path)
    assert set(_rebuild(embedded)) == {"fine"}
    (failure,) = summary.failures
    assert str(failure).startswith("b\\xff: its name is not UTF-8")


def test_rule_3_what_cannot_be_opened_is_a_failure(
    embedded: ClientConfigs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path, {"closed": b"x", "fine": b"y"})
    really_open = os.open

    def refuse(path: str, flags: int, *, dir_fd: int | None = None) -> int:
        if path == "closed":
            raise PermissionError(13, "Permission denied", path)
        return really_open(path, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)
    summary = upload_directory(embedded, "raw", tmp_path)
    assert [str(failure) for failure in summary.failures] == ["closed: can't be read: Permission denied"]
    assert summary.files == 1


@pytest.mark.parametrize("content", [b"shorter", b"X" * 3000, b"longer" * 1000, b""])
def test_rule_2_a_file_that_is_changed_while_it_is_sent_is_a_failure(
    embedded: ClientConfigs, tmp_path: Path, content: bytes
) -> None:
    _write(tmp_path, {"a": os.urandom(3000), "b": b"untouched"})
    os.utime(tmp_path / "a", (1, 1))

    def change(_sent_bytes: int) -> None:
        if content != (tmp_path / "a").read_bytes():
            (tmp_path / "a").write_bytes(content)

    summary = upload_directory(embedded, "raw", tmp_path, chunk_size_bytes=1000, window=change)
    assert [str(failure) for failure in summary.failures] == ["a: was changed while it was sent; send it again"]
    assert summary.files == 1


def test_a_directory_that_is_not_there_is_a_failure(embedded: ClientConfigs, tmp_path: Path) -> None:
    summary = upload_directory(embedded, "raw", tmp_path / "nothing")
    assert [str(failure) for failure in summary.failures] == [".: can't be listed: No such file or directory"]


def test_the_window_is_asked_before_each_message_with_the_bytes_so_far(embedded: ClientConfigs, tmp_path: Path) -> None:
    _write(tmp_path, {"a": bytes(2500), "b": bytes(10)})
    asked: list[int] = []
    upload_directory(embedded, "raw", tmp_path, chunk_size_bytes=1000, window=asked.append)
    sizes = [len(message.value() or b"") for message in read_all(embedded, "raw")]
    assert len(asked) == 4
    assert asked == sorted(asked)
    assert asked[-1] == sum(sizes)


def test_the_window_can_cancel(embedded: ClientConfigs, tmp_path: Path) -> None:
    _write(tmp_path, {"a": bytes(2500)})

    def cancel(_sent_bytes: int) -> None:
        raise UploadCancelledError("enough")

    with pytest.raises(UploadCancelledError):
        upload_directory(embedded, "raw", tmp_path, window=cancel)
    assert read_all(embedded, "raw") == []


def test_a_stop_finishes_what_is_on_its_way_and_counts_only_whole_files(
    embedded: ClientConfigs, tmp_path: Path
) -> None:
    _write(tmp_path, {"a": bytes(1000), "b": bytes(2500), "c": bytes(1000)})
    asked: list[int] = []
    summary = upload_directory(
        embedded, "raw", tmp_path, chunk_size_bytes=1000, window=asked.append, should_stop=lambda: len(asked) >= 2
    )
    assert summary.stopped
    assert (summary.files, summary.files_unfinished, summary.messages, summary.failures) == (1, 1, 2, [])


def test_progress_ends_with_everything(embedded: ClientConfigs, tmp_path: Path) -> None:
    _write(tmp_path, {f"f{i}": b"x" for i in range(50)})
    seen: list[tuple[int, int]] = []

    def look(summary: UploadSummary) -> None:
        seen.append((summary.files, summary.acknowledged_bytes))

    upload_directory(embedded, "raw", tmp_path, on_progress=look)
    assert seen == sorted(seen)
    assert seen[-1] == (50, 50)


def test_rule_3_what_is_not_delivered_is_a_failure(tmp_path: Path) -> None:
    _write(tmp_path, {"a": b"x", "b": b"y"})
    nobody = ClientConfigs.from_settings({"bootstrap.servers": "127.0.0.1:1"}, producer={"message.timeout.ms": 300})
    heard: list[str] = []
    summary = upload_directory(nobody, "raw", tmp_path, on_trouble=heard.append)
    assert [failure.path for failure in summary.failures] == ["a", "b"]
    assert all("not delivered" in failure.reason for failure in summary.failures)
    assert any("refused" in trouble for trouble in heard)
    assert summary.files == 0


def test_no_permission_ends_the_upload_at_once(
    embedded: ClientConfigs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path, {f"f{i}": b"x" for i in range(9)})

    class Forbidding:
        def produce(self, *_arguments: object, **_keywords: object) -> None:
            raise KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))

        def poll(self, _timeout: float) -> int:
            return 0

        def __len__(self) -> int:
            return 0

        def purge(self) -> None: ...

    monkeypatch.setattr(module, "open_producer", lambda *_: Forbidding())
    with pytest.raises(BrokerError, match="not allowed to write to the topic raw"):
        upload_directory(embedded, "raw", tmp_path)


def test_more_than_the_clients_queue_holds(embedded: ClientConfigs, tmp_path: Path) -> None:
    _write(tmp_path, {"a": bytes(100_000)})
    tight = ClientConfigs(common=embedded.common, producer={"queue.buffering.max.messages": 10})
    assert upload_directory(tight, "raw", tmp_path, chunk_size_bytes=500).messages == 200


def test_the_largest_chunk_that_the_settings_allow_fits_into_the_clients_queue(
    embedded: ClientConfigs, tmp_path: Path
) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate(MAX_CHUNK_BYTES)
    summary = upload_directory(embedded, "raw", tmp_path, chunk_size_bytes=MAX_CHUNK_BYTES, should_stop=_stuck())
    assert (summary.files, summary.messages, summary.failures, summary.stopped) == (1, 1, [], False)


def test_rule_3_a_message_that_is_larger_than_the_users_queue_is_a_failure_and_the_others_go_on(
    embedded: ClientConfigs, tmp_path: Path
) -> None:
    _write(tmp_path, {"a": b"x", "big": bytes(5000), "z": b"y"})
    tight = ClientConfigs(common=embedded.common, producer={"queue.buffering.max.kbytes": 2})
    summary = upload_directory(tight, "raw", tmp_path, should_stop=_stuck())
    (failure,) = summary.failures
    assert str(failure).startswith("big: was not delivered: a message of it is larger than the client's whole queue")
    assert (summary.files, summary.files_unfinished, summary.stopped) == (2, 0, False)
    assert set(_rebuild(embedded)) == {"a", "z"}
