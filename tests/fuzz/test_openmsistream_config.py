"""Whatever is in a configuration file of OpenMSIStream: settings, or one error that repeats no secret."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer.core.errors import ConfigurationError
from ray_reproducer.openmsistream_config import read_config
from tests.fuzz.budget import fuzz

SECRET = "hunter2-and-no-more"  # noqa: S105 - what nobody may repeat
sections = st.sampled_from(
    ["broker", "broker", "broker", "consumer", "producer", "kafkacrypto", "DEFAULT", "", "broker]", "☃"]
)
keys = st.sampled_from(
    ["bootstrap.servers", "bootstrap.servers", "group.id", "auto.offset.reset", "enable.auto.commit", "sasl.password",
     "sasl.username",
     "key.serializer", "value.deserializer", "ssl.key.password", "Bootstrap.Servers", "fetch.min.bytes", "", "$X"]
) | st.text(max_size=12)  # fmt: skip
config_values = st.sampled_from(
    ["host:9092", "host:9092", "$RR_PLAIN", "${RR_PLAIN}", "$RR_UNSET", "${RR_UNSET}/x", "${", "$", "$$", "%",
     "%(x)s", "%(bootstrap.servers)s",
     "earliest", "none", "latest", "StringSerializer", "DataFileChunkDeserializer", "true", "", "a\n  b",
     "a\n\n[broker]", "[x]"]
) | st.text(max_size=20)  # fmt: skip


@st.composite
def files(draw: st.DrawFn) -> str:
    """A file with sections and keys, each of them likely or not."""
    lines: list[str] = []
    for _ in range(draw(st.integers(0, 4))):
        lines.append(f"[{draw(sections)}]")
        for _ in range(draw(st.integers(0, 4))):
            key = draw(keys)
            value = draw(st.sampled_from([SECRET, "$RR_SECRET"])) if key.endswith("password") else draw(config_values)
            lines.append(f"{key}{draw(st.sampled_from([' = ', '=', ': ', ' ', '']))}{value}")
    return "\n".join(lines)


@given(st.binary(max_size=200) | files().map(lambda text: text.encode("utf-8", "surrogatepass")))
@fuzz("openmsistream_config")
def test_any_file_is_settings_or_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setenv("RR_SECRET", SECRET)
    monkeypatch.setenv("RR_PLAIN", "host:9092")
    monkeypatch.delenv("RR_UNSET", raising=False)
    path = tmp_path / "a.config"
    path.write_bytes(content)
    try:
        config = read_config(path)
    except ConfigurationError as error:
        assert SECRET not in str(error)
        assert str(path) in str(error) or "Kafka" in str(error)
        return
    assert config.clients.servers
    assert config.start in ("earliest", "latest")
    assert SECRET not in repr(config.clients)
