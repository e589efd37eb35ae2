"""The rules at the head of ``core/errors.py``, for every exception there."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from ray_reproducer.core import errors
from ray_reproducer.core.errors import (
    ConfigurationError,
    ExtractorError,
    FencedError,
    RecordTooLargeError,
    ReproducerError,
)

MORE: dict[type[ReproducerError], dict[str, Any]] = {RecordTooLargeError: {"index": 7}}
"""What a constructor takes beside message and hint."""


def kinds(base: type[ReproducerError] = ReproducerError) -> Iterator[type[ReproducerError]]:
    """The base, and what derives from it in that module, each once."""
    if base.__module__ == errors.__name__:
        yield base
    for kind in base.__subclasses__():
        yield from kinds(kind)


KINDS = list(dict.fromkeys(kinds()))


def test_no_exception_of_the_module_is_left_out() -> None:
    here = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert set(KINDS) == here


@pytest.mark.parametrize("hint", ["do this", ""])
@pytest.mark.parametrize("kind", KINDS)
def test_rule_1_it_says_what_was_wrong_and_what_to_do(kind: type[ReproducerError], hint: str) -> None:
    error = kind("what", hint=hint, **MORE.get(kind, {}))
    assert (error.message, error.hint) == ("what", hint)
    assert str(error) == ("what\ndo this" if hint else "what")


@pytest.mark.parametrize("kind", KINDS)
def test_rule_2_what_is_to_be_corrected_first_and_who_was_replaced_have_exit_codes_of_their_own(
    kind: type[ReproducerError],
) -> None:
    assert kind.exit_code == {ConfigurationError: 2, ExtractorError: 2, FencedError: 4}.get(kind, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_rule_3_it_survives_pickling(kind: type[ReproducerError]) -> None:
    error = kind("what", hint="do this", **MORE.get(kind, {}))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.message, again.hint, str(again), again.args) == (error.message, error.hint, str(error), error.args)
    assert vars(again) == vars(error)
