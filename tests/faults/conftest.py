"""What the fault tests share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.faults.catalogue import STAGES
from tests.faults.rig import Rig

SEED = 20261124


class Rigs:
    """Hands out one rig for many tests, and a new one after it has failed: what is left then is of no use."""

    def __init__(self, servers: str, directories: pytest.TempPathFactory) -> None:
        self.servers = servers
        self._directories = directories
        self._stack = ExitStack()
        self._shared: dict[str, Rig] = {}

    def make(self, stage: str) -> Rig:
        """Make a rig of one's own, with the program not started; it ends with the module's tests."""
        directory = self._directories.mktemp("rig") / "rig"
        return self._stack.enter_context(STAGES[stage].rig(directory, lambda: self.servers, SEED))

    def shared(self, stage: str) -> Rig:
        """The rig of a stage, with the program running."""
        rig = self._shared.get(stage)
        if rig is None or rig.is_spoilt:
            if rig is not None:
                rig.end_program()
            rig = self._shared[stage] = self.make(stage)
            rig.start()
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
