"""OpenMSIStream at the same work, by its public API; runs in OpenMSIStream's own environment.

It never ends by itself: it is told to quit when `--results` results were produced, or by SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
from pathlib import Path
from typing import Any

from openmsistream import MetadataJSONReproducer  # type: ignore[import-not-found, unused-ignore]

from benchmarks import extraction

_CONFIG = """
[broker]
bootstrap.servers = {bootstrap_servers}

[producer]
key.serializer = StringSerializer
value.serializer = StringSerializer

[consumer]
group.id = {group}
auto.offset.reset = earliest
enable.auto.commit = False
key.deserializer = StringDeserializer
value.deserializer = DataFileChunkDeserializer
"""
_CHECK_INTERVAL_S = 0.05
_CLOSE_DEADLINE_S = 20.0


class Bench(MetadataJSONReproducer):  # type: ignore[misc, unused-ignore]
    """The measured function on OpenMSIStream's base class."""

    function_name = ""

    def _get_metadata_dict_for_file(self, datafile: Any) -> dict[str, Any]:
        said: dict[str, Any] = getattr(extraction, self.function_name)(datafile)
        return said


def main() -> None:
    """Command line: what `programs.openmsistream` gives."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("bootstrap-servers", "source", "results", "group", "function"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--enough", type=int, required=True, help="quit after so many results")
    args = parser.parse_args()
    config = Path("bench.config")
    config.write_text(_CONFIG.format(bootstrap_servers=args.bootstrap_servers, group=args.group), encoding="utf-8")
    Bench.function_name = args.function
    bench = Bench(
        config, args.source, args.results, output_dir=Path("output"), mode="memory", consumer_group_id=args.group
    )
    quit_now = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: quit_now.set())
    worker = threading.Thread(target=bench.produce_processing_results_for_files_as_read, daemon=True)
    worker.start()
    while worker.is_alive() and bench.n_results_produced_files < args.enough:
        if quit_now.wait(_CHECK_INTERVAL_S):
            break
    bench.control_command_queue.put("q")
    worker.join(_CLOSE_DEADLINE_S)
    if worker.is_alive():
        # It goes through all that is queued first. What it has produced so far is measured; the rest is not waited for.
        os._exit(0)
    bench.close()


if __name__ == "__main__":
    main()
