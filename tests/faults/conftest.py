"""What the fault tests share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.faults.rig import Rig

SEED = 20261124


class Rigs:
    """Hands out one rig for many tests, and a new one after it has failed: what is left then is of no use."""

    def __init__(self, servers: str, directories: pytest.TempPathFactory) -> None:
        self.servers = servers
        self._directories = directories
        self._stack = ExitStack()
        self._shared: dict[str, Rig] = {}

    def make(self, **options: Any) -> Rig:
        """Make a rig of one's own, with the program not started; it ends with the module's tests."""
        options.setdefault("servers", self.servers)
        return self._stack.enter_context(Rig(self._directories.mktemp("rig"), seed=SEED, **options))

    def shared(self, name: str, *more: str, **options: Any) -> Rig:
        """The rig of this name, with the program running; ``options`` and ``more`` are for making it."""
        rig = self._shared.get(name)
        if rig is None or rig.is_spoilt:
            if rig is not None:
                rig.end_program()
            rig = self._shared[name] = self.make(**options)
            rig.start(*more)
        return rig

    def close(self) -> None:
        """End all."""
        self._stack.close()


@pytest.fixture(scope="module")
def rigs(bootstrap_servers: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rigs]:
    """Rigs on the broker of the tests."""
    rigs = Rigs(bootstrap_servers, tmp_path_factory)
    yield rigs
    rigs.close()
