"""The module of a user whose files are what their names say."""

import ctypes
import hashlib
import os
import time
from typing import Any


def digest(datafile: Any) -> dict[str, Any]:
    data = datafile.bytestring
    return {
        "path": str(datafile.relative_filepath),
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "lines": data.count(b"\n"),
    }


def work(datafile: Any, seconds: float) -> Any:
    kind = datafile.filename.partition("_")[2].partition(".")[0]
    time.sleep(seconds)  # so that there is a middle for a fault to hit
    if kind == "raises":
        raise ValueError("this file is one that raises")
    if kind == "exits":
        os._exit(7)
    if kind == "segfault":
        ctypes.string_at(0)
    if kind == "hangs":
        time.sleep(3600)
    if kind == "list":
        return ["no", "dictionary"]
    if kind == "huge":
        return {"what JSON can't say": 2**70}
    return digest(datafile)
