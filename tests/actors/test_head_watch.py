"""When Ray's head counts as gone; with real clusters it is shown in ``tests/faults``.

The rules are those at the head of ``actors/head_watch.py``.
"""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest
import ray
import ray.util.client
from ray.experimental import internal_kv

from ray_reproducer.actors import head_watch, ray_cluster
from ray_reproducer.actors.head_watch import LONGEST_S, HeadGoneError, HeadWatch
from ray_reproducer.core.errors import PipelineError

PATIENCE_S = 30.0
ADDRESS = "192.0.2.1:6379"


class Head:
    """A head that is there or not, and the time."""

    def __init__(self) -> None:
        self.listens = self.is_same = True
        self.is_local = False
        self.now_s = 1_000.0
        self.said: list[str] = []
        self.watch = HeadWatch(PATIENCE_S, self.said.append)


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Head:
    head = Head()
    monkeypatch.setattr(ray_cluster, "head_listens", lambda: head.listens)
    monkeypatch.setattr(ray_cluster, "is_same_head", lambda: head.is_same)
    monkeypatch.setattr(ray_cluster, "head_address", lambda: ADDRESS)
    monkeypatch.setattr(ray_cluster, "is_local", lambda: head.is_local)
    monkeypatch.setattr(head_watch, "time", SimpleNamespace(monotonic=lambda: head.now_s))
    return head


def test_rule_2_a_head_of_our_own_is_gone_at_the_second_look(head: Head) -> None:
    head.is_local = True
    assert head.watch.look()
    for listens in (False, True, False):
        head.listens = listens
        assert head.watch.look() is listens
    with pytest.raises(HeadGoneError, match="head process has died"):
        head.watch.look()
    assert head.said == []


def test_rule_3_a_cluster_has_time_to_bring_its_head_back_each_time(head: Head) -> None:
    for _ in range(3):
        head.listens = False
        for _ in range(2):
            assert not head.watch.look()
            head.now_s += PATIENCE_S / 2 - 1.0
        head.listens = True
        assert head.watch.look()
        assert head.watch.look()
    away = f"Ray's head at {ADDRESS} does not answer; it is waited for, for 30 s."
    assert head.said == [away, "Ray's head is there again."] * 3


def test_rule_3_and_no_more_than_that(head: Head) -> None:
    head.listens = False
    assert not head.watch.look()
    head.now_s += PATIENCE_S - 0.1
    assert not head.watch.look()
    head.now_s += 0.1
    with pytest.raises(HeadGoneError, match=r"has not answered for 30 s") as raised:
        head.watch.look()
    assert ADDRESS in raised.value.message
    assert "Start the cluster" in str(raised.value.hint)


def test_rule_3_no_longer_than_ray_itself_waits(head: Head) -> None:
    head.listens, watch = False, HeadWatch(1_000.0, head.said.append)
    assert not watch.look()
    head.now_s += LONGEST_S
    with pytest.raises(HeadGoneError, match=r"has not answered for 40 s"):
        watch.look()


def test_rule_4_a_head_that_does_not_know_us_is_another_one(head: Head) -> None:
    head.listens = False
    assert not head.watch.look()
    head.listens, head.is_same = True, False
    with pytest.raises(HeadGoneError, match="was started anew, and is another one now") as raised:
        head.watch.look()
    assert "Start the cluster" in str(raised.value.hint)


def test_rule_4_is_found_out_without_ending_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_key: bytes) -> bool:
        raise RuntimeError(said)

    monkeypatch.setattr(internal_kv, "_internal_kv_exists", refuse)
    said = "RPC error: WrongClusterID: Perhaps the client is accessing GCS after it has restarted."
    assert not ray_cluster.is_same_head()
    said = "something else"
    with pytest.raises(PipelineError, match="something else"):
        ray_cluster.is_same_head()
    monkeypatch.setattr(internal_kv, "_internal_kv_exists", lambda _key: False)
    assert ray_cluster.is_same_head()


def test_no_ray_is_started_to_find_out_where_its_head_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: pytest.fail("Ray was asked"))
    with pytest.raises(PipelineError, match="shut this process's Ray down"):
        ray_cluster.head_address()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_rule_1_who_listens_is_found_out_without_ray(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError:
        assert family == socket.AF_INET6, "a machine without IPv6"
        return
    with listener:
        port = listener.getsockname()[1]
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        context = SimpleNamespace(gcs_address=shown)
        monkeypatch.setattr(ray, "is_initialized", lambda: True)
        monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
        assert ray_cluster.head_listens()
    assert not ray_cluster.head_listens()
    monkeypatch.setattr(ray.util.client.ray, "is_connected", lambda: True)
    assert ray_cluster.head_listens(), "Ray's client may not reach that address, and watches its own connection"
