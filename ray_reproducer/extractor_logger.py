"""The ``self.logger`` of a ``MetadataJSONReproducer``: Python's logger, with the keywords that its users know."""

from __future__ import annotations

import logging
from typing import Any


class ExtractorLogger:
    """Logs, and raises afterwards if asked to.

    Everything that a ``logging.Logger`` has is there (``setLevel``, ``critical``...). It can be pickled: a worker gets
    a logger of the same name and level.

    Args:
        name: name of the logger.
        level: messages below it are not logged.
    """

    def __init__(self, name: str, level: int = logging.INFO) -> None:
        self._logger = logging.getLogger(name)
        self._logger.setLevel(level)

    @classmethod
    def around(cls, logger: logging.Logger) -> ExtractorLogger:
        """Give a logger of the user's these keywords; its level and its handlers stay as they are."""
        wrapped = cls.__new__(cls)
        wrapped._logger = logger  # noqa: SLF001 - one of this class
        return wrapped

    def debug(self, msg: object, *args: object, **kwargs: Any) -> None:
        """Log a message of level DEBUG."""
        self._log(logging.DEBUG, msg, *args, **kwargs)

    def info(self, msg: object, *args: object, **kwargs: Any) -> None:
        """Log a message of level INFO."""
        self._log(logging.INFO, msg, *args, **kwargs)

    def warning(self, msg: object, *args: object, **kwargs: Any) -> None:
        """Log a message of level WARNING."""
        self._log(logging.WARNING, msg, *args, **kwargs)

    def error(
        self,
        msg: object,
        *args: object,
        exc_type: type[Exception] | None = None,
        exc_info: Any = None,
        reraise: bool = False,
        **kwargs: Any,
    ) -> None:
        """Log a message of level ERROR, then raise if asked to.

        Args:
            msg: the message.
            args: what its ``%`` placeholders stand for.
            exc_type: raise one of these, with the message.
            exc_info: an exception, whose traceback is logged.
            reraise: raise that exception.
            kwargs: see ``logging.Logger.error``.

        Raises:
            Exception: ``exc_type``, or ``exc_info`` itself.
        """
        self._log(logging.ERROR, msg, *args, exc_info=exc_info, **kwargs)
        if exc_type is not None:
            cause = exc_info if isinstance(exc_info, BaseException) else None
            raise exc_type(str(msg) % args if args else str(msg)) from cause
        if reraise and isinstance(exc_info, BaseException):
            raise exc_info

    def _log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        # Two frames up is the line that logs.
        self._logger.log(level, msg, *args, **{"stacklevel": 3, **kwargs})

    def __getattr__(self, name: str) -> Any:
        """Give everything else that a logger has."""
        if name == "_logger":  # not there yet while unpickling
            raise AttributeError(name)
        return getattr(self._logger, name)

    def __reduce__(self) -> tuple[type[ExtractorLogger], tuple[str, int]]:
        """Pickle the name and the level; handlers belong to their process."""
        return (ExtractorLogger, (self._logger.name, self._logger.getEffectiveLevel()))
