"""What a measurement was taken on: figures without it mean nothing."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import time
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import confluent_kafka
import psutil

from benchmarks.broker import ROOT, Broker
from benchmarks.programs import peer_python

_PACKAGES = ("ray", "confluent-kafka", "pyarrow", "orjson", "msgpack", "hydra-core")
_HASHED_BYTES = 64 * 2**20


def describe(broker: Broker | None) -> dict[str, Any]:
    """The machine, the versions and the commit. Nothing in it names the machine or its users.

    Args:
        broker: what is measured on; None if there is none.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_changed_files": len(_git("status", "--porcelain", "--untracked-files=no").splitlines()),
        "cpu": _cpu_model(),
        "cores": affinity,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "sha512_mb_per_s": _sha512_rate(),
        "load_1min_at_start": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "librdkafka": confluent_kafka.libversion()[0],
        "kafka": "none" if broker is None else _kafka_version() if broker.own else "as at KAFKA_BOOTSTRAP_SERVERS",
        "openmsistream": _peer_version(),
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1) if found else platform.processor()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _sha512_rate() -> int:
    """How fast one core hashes: what every program has to pay for every byte."""
    content = bytes(_HASHED_BYTES)
    begin = time.perf_counter()
    hashlib.sha512(content).digest()
    return round(_HASHED_BYTES / 1e6 / (time.perf_counter() - begin))


def _kafka_version() -> str:
    text = (ROOT / "scripts" / "kafka_broker" / "jars.py").read_text(encoding="utf-8")
    found = re.search(r'^KAFKA_VERSION = "(.+)"$', text, re.MULTILINE)
    return found.group(1) if found else "unknown"


def _peer_version() -> str:
    python = peer_python()
    if python is None:
        return "not installed"
    code = "from importlib.metadata import version; print(version('openmsistream'))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "not installed"
