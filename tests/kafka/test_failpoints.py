"""The rules at the head of ``failpoints``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException

from ray_reproducer.core.errors import ConfigurationError
from ray_reproducer.kafka import failpoints
from ray_reproducer.kafka.failpoints import Failpoints, arm

THREE_CALLS = """
import sys
from ray_reproducer.kafka import failpoints
for number in range(3):
    print(failpoints.around("commit", lambda: number)(), flush=True)
"""


def passes(directory: Path) -> subprocess.CompletedProcess[str]:
    """A process that passes the failpoints of a commit three times."""
    environment = {**os.environ, failpoints.ENVIRONMENT_VARIABLE: str(directory)}
    return subprocess.run(
        [sys.executable, "-c", THREE_CALLS], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_rule_1_without_the_variable_a_call_is_left_as_it_is() -> None:
    assert failpoints.ENVIRONMENT_VARIABLE not in os.environ

    def call() -> int:
        return 1

    assert failpoints.around("commit", call) is call


def test_rule_2_armed_for_a_pass_and_rule_3_only_once(tmp_path: Path) -> None:
    arm(tmp_path, "commit.after", "kill", at_pass=2)
    first = passes(tmp_path)
    assert (first.returncode, first.stdout.split()) == (-signal.SIGKILL, ["0"])
    second = passes(tmp_path)
    assert (second.returncode, second.stdout.split()) == (0, ["0", "1", "2"])


def test_rule_2_armed_while_it_runs(tmp_path: Path) -> None:
    points = Failpoints(tmp_path)
    calls: list[str] = []
    call = points.around("offsets", lambda: calls.append("called"))
    call()
    arm(tmp_path, "offsets.before", "lose")
    with pytest.raises(KafkaException) as lost:
        call()
    assert lost.value.args[0].code() == KafkaError._TIMED_OUT
    assert calls == ["called"]
    arm(tmp_path, "offsets.after", "refuse")
    with pytest.raises(KafkaException) as refused:
        call()
    assert refused.value.args[0].txn_requires_abort()
    assert calls == ["called", "called"]
    call()


@pytest.mark.parametrize(
    ("name", "armed"),
    [("commit", "kill"), ("commit.before", "explode"), ("commit.before", "kill@0"), ("commit.before", "kill@x")],
)
def test_rule_4_what_makes_no_sense_is_refused(tmp_path: Path, name: str, armed: str) -> None:
    (tmp_path / name).write_text(armed)
    with pytest.raises(ConfigurationError, match="no failpoint can be armed"):
        Failpoints(tmp_path)


def test_rule_4_arming_refuses_the_same(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no failpoint can be armed"):
        arm(tmp_path, "commit.between", "kill")


def test_rule_4_the_program_does_not_start_without_the_directory(tmp_path: Path) -> None:
    ended = passes(tmp_path / "absent")
    assert ended.returncode == 1
    assert "is no directory" in ended.stderr
