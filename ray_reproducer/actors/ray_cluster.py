"""Attaches the process to Ray: one of its own, or a cluster that runs."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import ray
import ray.util.client
from ray.experimental import internal_kv

from ray_reproducer.actors.settings import RaySettings
from ray_reproducer.core.errors import ConfigurationError, PipelineError

_LOCAL_ENVIRONMENT: Final = {
    # A Ray of our own listens on this machine only, and nobody else is to talk to it.
    "RAY_AUTH_MODE": "disabled",
    # A task that was ended for its memory is run again by our own rules, not by Ray's (which would do it for ever).
    "RAY_task_oom_retries": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}

_PRIVATE: Final = "ray_reproducer_private"
"""Resource of a Ray of our own: who looks for a cluster on this machine ("auto") finds that as well."""
_ROUNDING: Final = 1e-9
"""So that 0.3 cores fit ten times into three."""
PROBE_TIMEOUT_S: Final = 5.0
"""How long somebody at a cluster's address may take to accept a connection, in seconds."""
HEAD_TIMEOUT_S: Final = 1.0
"""The same during a run, when the driver has other things to do."""


@dataclass
class _Started:
    """The Ray that this process has started or joined by ``connect``, if it has.

    Attributes:
        settings: of the Ray that it has started itself; None: it has not.
        address: of the Ray that it was connected to; "" if that was somebody else's doing.
    """

    settings: RaySettings | None = None
    address: str = ""


_started = _Started()
_connecting = threading.RLock()
"""Runs in several threads of one process share its Ray; the first one connects."""


def connect(settings: RaySettings) -> None:
    """Start or join Ray; does nothing if this process has it already.

    Args:
        settings: which Ray.

    Raises:
        PipelineError: Ray can't be started, or the cluster can't be reached.
    """
    with _connecting:
        if not ray.is_initialized():
            _connect(settings)


def disconnect() -> None:
    """Let Ray go (a local one ends), if it was ``connect`` that brought it, and nobody has changed it since."""
    with _connecting:
        if _is_ours():
            ray.shutdown()
        _started.settings, _started.address = None, ""


def _is_ours() -> bool:
    """Whether Ray is what ``connect`` has brought, and nobody has changed it since."""
    return ray.is_initialized() and ray.get_runtime_context().gcs_address == _started.address


def _connect(settings: RaySettings) -> None:
    _started.settings, _started.address = None, ""
    options: dict[str, Any] = {
        # What user code prints stays in the workers' logs: stdout belongs to the results.
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "namespace": "ray_reproducer",
    }
    if settings.runtime_env:
        options["runtime_env"] = dict(settings.runtime_env)
    if settings.mode == "local":
        for name, value in _LOCAL_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        options.update(
            address="local",
            include_dashboard=False,
            num_cpus=settings.num_cpus,
            object_store_memory=settings.object_store_memory_bytes,
            resources={_PRIVATE: 1},
        )
    else:
        options["address"] = address = settings.address or os.environ.get("RAY_ADDRESS") or "auto"
        _look_for(address)
    try:
        ray.init(**options)
    # Ray has no exception of its own for this: ConnectionError, RuntimeError, ValueError and others occur.
    except Exception as error:
        where = "a local Ray" if settings.mode == "local" else f"the Ray cluster at {options['address']}"
        raise PipelineError(
            f"{where} can't be used: {type(error).__name__}: {error}",
            hint="Is it running (`ray status`)? Set ray.address=HOST:PORT, or ray=local to use this machine only."
            if settings.mode == "cluster"
            else "Is there enough memory and room in /tmp and /dev/shm?",
        ) from error
    if settings.mode == "cluster" and _PRIVATE in ray.cluster_resources():
        ray.shutdown()
        raise PipelineError(
            f"the Ray found at {options['address']} is no cluster: another run of ray_reproducer has it for itself",
            hint="Start one with `ray start --head`, or name one by ray.address=HOST:PORT; ray=local has its own.",
        )
    _started.settings = settings if settings.mode == "local" else None
    _started.address = ray.get_runtime_context().gcs_address


def _look_for(address: str) -> None:
    """Make sure that somebody listens at a cluster's address: Ray itself would try for minutes, saying nothing.

    Raises:
        PipelineError: nobody does.
    """
    place = urlsplit(address if "://" in address else f"gcs://{address}")
    try:
        host, port = place.hostname, place.port
    except ValueError:
        raise ConfigurationError(f"ray.address={address} is no address", hint="It is HOST:PORT.") from None
    if host is None or port is None:
        return  # "auto" and the like: Ray looks on this machine, and says at once if there is nothing
    try:
        socket.create_connection((host, port), PROBE_TIMEOUT_S).close()
    except OSError as error:
        raise PipelineError(
            f"the Ray cluster at {address} can't be reached: {error}",
            hint="Is it running (`ray status`)? Set ray.address=HOST:PORT, or ray=local to use this machine only.",
        ) from error


def revive() -> bool:
    """Start the Ray that this process has started again if it has died; return whether that was so.

    Raises:
        PipelineError: it can't be started.
    """
    with _connecting:
        settings = _started.settings
        if settings is None or not _is_ours() or (head_listens() and is_alive()):
            return False
        # Starting Ray replaces the handler of SIGTERM.
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        ray.shutdown()
        _connect(settings)
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return True


def head_address() -> str:
    """Return HOST:PORT of Ray's head: of the service that knows all machines and actors.

    Raises:
        PipelineError: this process has let its Ray go.
    """
    with _connecting:
        if not ray.is_initialized():  # Ray would start one of its own to answer
            raise PipelineError("somebody has shut this process's Ray down", hint="Start again to go on.")
        address: str = ray.get_runtime_context().gcs_address
    return address


def head_listens() -> bool:
    """Whether Ray's head is there. To be asked before it is asked for anything: Ray waits for it, for a minute.

    Through Ray's client (``ray://``) the answer is always yes: that watches its connection itself, and the address of
    the head need not be one that can be reached from here.
    """
    if ray.util.client.ray.is_connected():
        return True
    host, _, port = head_address().rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), HEAD_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def is_same_head() -> bool:
    """Whether the head that listens is the one that this process was connected to.

    One that was started anew (and keeps nothing elsewhere) is another; Ray ends a process that asks it for machines.
    Ray's client (``ray://``) finds that out itself.
    """
    if ray.util.client.ray.is_connected():
        return True
    try:
        internal_kv._internal_kv_exists(b"ray_reproducer")  # noqa: SLF001 - what says no instead of ending the process
    # What it raises depends on the version of Ray: an AuthenticationError or an RpcError.
    except Exception as error:
        if "WrongClusterID" in str(error):
            return False
        raise PipelineError(f"Ray's head can't be asked: {type(error).__name__}: {error}") from error
    return True


def is_alive() -> bool:
    """Whether Ray has a machine at all: without one it has died, as a whole."""
    return any(node["Alive"] for node in ray.nodes())


def is_local() -> bool:
    """Whether this process has started its Ray itself."""
    return _started.settings is not None and _is_ours()


def cpus() -> float:
    """Return how many processor cores the cluster has."""
    resources: dict[str, float] = ray.cluster_resources()
    return resources.get("CPU", 0.0)


def slots(num_cpus: float) -> int:
    """Return how many tasks that reserve ``num_cpus`` cores the cluster's nodes can run at a time, all together."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(int(resources.get("CPU", 0.0) / num_cpus + _ROUNDING) for resources in nodes)
