"""An attribute that is made when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

_T = TypeVar("_T")


class once(Generic[_T]):  # noqa: N801 - a decorator, as `property` is
    """``functools.cached_property`` as it is from Python 3.12 on.

    Before that it takes a lock, which makes it three times as slow; and each file needs some nine of these.
    """

    def __init__(self, make: Callable[[Any], _T]) -> None:
        """Take the method that makes it."""
        self._make = make
        self._name = make.__name__
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> once[_T]: ...

    @overload
    def __get__(self, instance: object, owner: type[Any]) -> _T: ...

    def __get__(self, instance: object | None, owner: type[Any]) -> once[_T] | _T:
        """Make it; it is found in the object itself from then on."""
        if instance is None:
            return self
        made = instance.__dict__[self._name] = self._make(instance)
        return made
