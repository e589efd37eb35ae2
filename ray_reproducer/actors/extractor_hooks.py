"""What a class may be told about its own file in the worker, beside the call of its one function.

Rules:

1. Both hooks run in the worker, in the task of their file, with a datafile that has its content, and with the lock of
   the worker's own instance.
2. Whatever a hook raises is logged, with the file's name. It changes nothing about the outcome.
3. A file that ends its process, or takes longer than it may, has no worker left to be told.
"""

from __future__ import annotations

import logging
from typing import Final

from ray_reproducer.data_file import DataFile

FAILED: Final = "_failed_computing_processing_result"
"""Called if the function raised, or returned what JSON can't say."""
MISMATCHED: Final = "_mismatched_hash_callback"
"""Called if the content is not what its sender's hash says; the function is not called then."""

_LOG: Final = logging.getLogger("ray_reproducer.extraction")


def call_hook(extractor: object, name: str, datafile: DataFile) -> bool:
    """Call a hook of the class whose method the extractor is; return whether there is one.

    Args:
        extractor: what was called, or would have been called, with the datafile.
        name: ``FAILED`` or ``MISMATCHED``.
        datafile: the file, with its content.
    """
    owner = getattr(extractor, "__self__", None)
    hook = getattr(owner, name, None)
    if not callable(hook):
        return False
    try:
        hook(datafile, getattr(owner, "lock", None))
    except BaseException as error:  # noqa: BLE001 - rule 2
        _LOG.error("%s raised %s", name, type(error).__name__, exc_info=error)
    return True
