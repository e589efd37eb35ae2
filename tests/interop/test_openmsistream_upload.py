"""Our uploader and OpenMSIStream's write the same, to the byte; and each can read the other's.

OpenMSIStream runs as its own command lines, from an environment of its own.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ray_reproducer.core.chunk import decode
from ray_reproducer.kafka import admin
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.upload import upload_directory
from tests.kafka.reading import read_all
from tests.waiting import wait_until

MakeTopic = Callable[..., str]
PEER_S = 90.0
"""It takes several seconds to start, more on a loaded machine."""
CHUNK_BYTES = 16_384

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def clients(bootstrap_servers: str) -> ClientConfigs:
    """Client settings for the real broker."""
    return ClientConfigs.from_settings({"bootstrap.servers": bootstrap_servers})


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, bytes]:
    """Files under ``tmp_path/tree``: nested, unicode names, one and several chunks, a chunk's exact length."""
    files = {
        "root.csv": b"a,b\n1,2\n",
        "deep/er/several.bin": os.urandom(5 * CHUNK_BYTES + 17),
        "deep/exact.bin": os.urandom(2 * CHUNK_BYTES),
        "with space/中文 ä.txt": "naïve\n".encode() * 100,
        "two.dots.in.name": b"x",
    }
    for relative, content in files.items():
        path = tmp_path / "tree" / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return files


@pytest.fixture
def peer_config(tmp_path: Path, bootstrap_servers: str) -> Path:
    """A configuration file for OpenMSIStream."""
    config = tmp_path / "peer.config"
    config.write_text(
        f"""
[broker]
bootstrap.servers = {bootstrap_servers}
[producer]
key.serializer = StringSerializer
value.serializer = DataFileChunkSerializer
[consumer]
group.id = create_new
auto.offset.reset = earliest
enable.auto.commit = False
key.deserializer = StringDeserializer
value.deserializer = DataFileChunkDeserializer
"""
    )
    return config


@contextmanager
def _peer(interpreter: Path, command: str, *arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of OpenMSIStream's commands until the block ends."""
    program = interpreter.parent / command
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [str(program), *arguments], stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=log.parent
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def test_their_downloader_rebuilds_what_our_uploader_sent(
    clients: ClientConfigs,
    unique_topic: MakeTopic,
    openmsistream_python: Path,
    peer_config: Path,
    tree: dict[str, bytes],
    tmp_path: Path,
) -> None:
    topic = unique_topic("raw", 4)
    summary = upload_directory(clients, topic, tmp_path / "tree", chunk_size_bytes=CHUNK_BYTES)
    assert summary.failures == []
    rebuilt = tmp_path / "rebuilt"
    log = tmp_path / "peer.log"

    def complete(peer: subprocess.Popen[bytes]) -> bool:
        assert peer.poll() is None, log.read_text()
        return all(
            (rebuilt / path).is_file() and (rebuilt / path).read_bytes() == content for path, content in tree.items()
        )

    command = (str(rebuilt), "--config", str(peer_config), "--consumer_topic_name", topic)
    with _peer(openmsistream_python, "DataFileDownloadDirectory", *command, log=log) as peer:
        wait_until(lambda: complete(peer), PEER_S, "OpenMSIStream to rebuild all files, byte for byte")


def test_our_decoder_rebuilds_what_their_uploader_sent_and_our_uploader_sends_the_same_bytes(
    clients: ClientConfigs,
    unique_topic: MakeTopic,
    openmsistream_python: Path,
    peer_config: Path,
    tree: dict[str, bytes],
    tmp_path: Path,
) -> None:
    theirs, ours = unique_topic("theirs", 4), unique_topic("ours", 4)
    upload_directory(clients, ours, tmp_path / "tree", chunk_size_bytes=CHUNK_BYTES)
    expected = {(message.key(), message.value()) for message in read_all(clients, ours)}
    log = tmp_path / "peer.log"

    def arrived(peer: subprocess.Popen[bytes]) -> bool:
        assert peer.poll() is None, log.read_text()
        ends = admin.watermarks(clients, theirs, range(4))
        return sum(high for _, high in ends.values()) >= len(expected)

    command = (str(tmp_path / "tree"), "--upload_existing", "--chunk_size", str(CHUNK_BYTES))
    where = ("--config", str(peer_config), "--producer_topic_name", theirs)
    with _peer(openmsistream_python, "DataFileUploadDirectory", *command, *where, log=log) as peer:
        wait_until(lambda: arrived(peer), PEER_S, "OpenMSIStream to upload all files")
    messages = read_all(clients, theirs)
    rebuilt: dict[str, dict[int, bytes]] = {}
    for message in messages:
        chunk = decode(message.value())
        assert hashlib.sha512(chunk.data).digest() == chunk.chunk_hash
        rebuilt.setdefault(chunk.version.relative_path, {})[chunk.write_offset] = chunk.data
    assert {path: b"".join(data for _, data in sorted(parts.items())) for path, parts in rebuilt.items()} == tree
    assert {(message.key(), message.value()) for message in messages} == expected
