"""What a fault is, and the list of all that there are."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import ClassVar, Final, TypeVar

from tests.faults.plan import Batch
from tests.faults.rig import Recovery, Rig

FAULTS: Final[dict[str, type[Fault]]] = {}
"""Name -> fault; filled by :func:`register` when the modules with faults are imported (``tests.faults.catalogue``)."""


FILES_AFTERWARDS: Final = 10
"""What arrives when the fault has struck: whatever it broke is needed once more, and so is found out at once."""


class Fault(ABC):
    """Something that goes wrong, once.

    Attributes:
        name: what it is called in tests and in the table of the soak.
        weight: how often the soak chooses it, relative to the others; small if it costs a start of Ray.
        needs: features of the rig that it can't do without: ``exactly_once`` or ``at_least_once``, ``local`` (a Ray of
            its own) or ``cluster``, and others that belong to the faults that need them.
        costly: files of kinds that cost a worker process, in the batch that it strikes.
    """

    name: ClassVar[str]
    weight: ClassVar[float] = 1.0
    needs: ClassVar[frozenset[str]] = frozenset()
    costly: ClassVar[int] = 0

    @abstractmethod
    def strike(self, rig: Rig, batch: Batch) -> None:
        """Do it, and undo it where it does not end by itself; returns when only the recovery is left.

        A fault that may end the program says so first (``rig.expect_end``).
        """


F = TypeVar("F", bound=type[Fault])


def register(fault: F) -> F:
    """Enter a fault into the list (a class decorator)."""
    if fault.name in FAULTS:
        raise ValueError(f"there are two faults called {fault.name!r}")
    FAULTS[fault.name] = fault
    return fault


def strike(rig: Rig, fault: Fault, share: float, files: int = 40) -> Recovery:
    """Put work on the topic, let the fault strike when a share of it is done, and see all of it done in the end.

    Args:
        rig: with the program running.
        fault: which.
        share: of the outcomes of the batch, from 0 to 1.
        files: size of the batch.

    Raises:
        AssertionError: something is lost, there twice, wrong, or takes too long.
    """
    rig.is_spoilt = True  # until it has recovered
    batch = rig.put(files, fault.costly)
    rig.wait_for_share(batch, share)
    began_s = time.monotonic()
    fault.strike(rig, batch)
    rig.put(FILES_AFTERWARDS)
    return rig.recover(began_s)
