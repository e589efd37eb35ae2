"""Faults: somebody stops the program in the middle of the work, politely or not."""

from __future__ import annotations

import signal
from typing import ClassVar

from tests.faults.dying import RESTART
from tests.faults.fault import Fault, register
from tests.faults.plan import Batch
from tests.faults.rig import RECOVERY_S, Rig
from tests.waiting import wait_until


class _Stop(Fault):
    """Signals to the driver; the program ends well, and the next start goes on."""

    weight = RESTART
    signals: ClassVar[tuple[signal.Signals, ...]]
    answers: ClassVar[tuple[str, ...]]

    def strike(self, rig: Rig, batch: Batch) -> None:
        """Send each signal once the one before was answered."""
        rig.expect_end(0, said=self.answers[0])  # it may have ended in order before it hears the second
        program = rig.running()
        for number, answer in zip(self.signals, self.answers, strict=True):
            program.process.send_signal(number)

            def answered(answer: str = answer) -> bool:
                return answer in program.err() or rig.has_ended()

            wait_until(answered, RECOVERY_S, f"the answer {answer!r}")
        wait_until(rig.has_ended, RECOVERY_S, "the program to end")


@register
class CtrlC(_Stop):
    """Ctrl-C: what is in flight is finished and committed."""

    name = "Ctrl-C"
    signals = (signal.SIGINT,)
    answers = ("finishing what is in flight",)


@register
class CtrlCTwice(_Stop):
    """Ctrl-C twice: it leaves at once."""

    name = "Ctrl-C twice"
    signals = (signal.SIGINT, signal.SIGINT)
    answers = ("finishing what is in flight", "leaving now")


@register
class Terminate(_Stop):
    """SIGTERM, as `ray job stop` and every init system send it."""

    name = "SIGTERM"
    signals = (signal.SIGTERM,)
    answers = ("finishing what is in flight",)
