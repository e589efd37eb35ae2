"""What is said of actors that are lost."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

from ray_reproducer.actors.loss import in_words
from ray_reproducer.core.errors import PipelineError

ID = bytes(range(16))
NODE_DIED = "The actor died because its node has died. Node Id: 0102\n\tthe actor's node was terminated unexpectedly"
INIT_FAILED = "The actor died because of an error raised in its creation task, Traceback:\n  ...\nOSError: no"
NAMES = {ID.hex(): "consumer 2", "ff" * 16: "the committer"}


def died(*where: str, reason: str = "") -> RayActorError:
    text = "The actor died unexpectedly before finishing this task.\n\tclass_name: ConsumerActor\n\tactor_id: 0102"
    return RayActorError(ID.hex(), "\n\t".join([text, *where, "namespace: 1"]) + f"\n{reason}")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (died("pid: 4711", "ip: 10.0.0.7"), "consumer 2 died (process 4711 on 10.0.0.7)"),
        (died(), "consumer 2 died"),
        (died(reason=NODE_DIED), "consumer 2 died: its node has died"),
        (RayActorError(ID.hex(), INIT_FAILED, actor_init_failed=True), "consumer 2 could not be started: OSError: no"),
        (ActorUnavailableError("RpcError: Socket closed", ID), "consumer 2 can't be reached"),
        (ActorUnavailableError("RpcError: Socket closed", bytes(16)), "an actor can't be reached"),
        (RayActorError(), "an actor died"),
        (
            RayTaskError("run", "Traceback ...", died()).as_instanceof_cause(),
            "consumer 2 died",
        ),
        (PipelineError("consumer 1 has not answered\nfor long"), "consumer 1 has not answered"),
    ],
)
def test_a_loss_is_said_in_words_of_the_program(error: Exception, text: str) -> None:
    assert in_words(error, NAMES) == text
