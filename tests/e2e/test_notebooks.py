"""In a notebook, by a real kernel: the example, and a class that is defined in a cell of a program with its own Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.e2e.conftest import write_files

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

EXAMPLES = Path(__file__).parents[2] / "examples"
CELL_DEADLINE_S = 200
CELLS = [
    """
    import re, threading, time
    import ray
    from ray_reproducer import MetadataJSONReproducer
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    session = ray.get_runtime_context().gcs_address
    """,
    """
    UNIT = "mm"

    def numbers(text):
        return [float(found) for found in re.findall(r"[0-9.]+", text)]
    """,
    """
    class Lengths(MetadataJSONReproducer):
        def __init__(self, *args, scale, **kwargs):
            super().__init__(*args, **kwargs)
            self.scale = scale
            self.results = {}

        def _get_metadata_dict_for_file(self, datafile):
            self.logger.warning("measured in %s", UNIT)
            return {"unit": UNIT, "lengths": [self.scale * n for n in numbers(datafile.bytestring.decode())]}

        def _on_result_produced(self, path, metadata):
            self.results[str(path)] = metadata

    lengths = Lengths(None, "raw", "metadata", scale=2, overrides=["kafka=embedded", "upload.path=data"])
    """,
    """
    returned = []
    thread = threading.Thread(target=lambda: returned.append(lengths.produce_processing_results_for_files_as_read()))
    thread.start()
    deadline = time.monotonic() + 150
    while len(lengths.results) < 2 and time.monotonic() < deadline:
        thread.join(0.1)
    print("still printed here")
    lengths.control_command_queue.put("q")
    thread.join()
    lengths.close()
    """,
    """
    import json
    assert ray.is_initialized() and ray.get_runtime_context().gcs_address == session
    print(json.dumps([returned[0][:4], lengths.results]))
    """,
]


def outputs(notebook: Any, kind: str) -> str:
    """All that the cells have put out of one kind: "text/html", "image/png", "stdout", "stderr"."""
    found = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    if kind.startswith("std"):
        return "".join(output["text"] for output in found if output.get("name") == kind)
    return "".join(output["data"][kind] for output in found if kind in output.get("data", {}))


def run(notebook: Any, directory: Path) -> Any:
    """Run a notebook in a kernel of this interpreter; it fails with the error of its cell."""
    client = NotebookClient(
        notebook, timeout=CELL_DEADLINE_S, kernel_name="python3", resources={"metadata": {"path": str(directory)}}
    )
    return client.execute()


def test_the_example_makes_a_table_and_a_plot() -> None:
    notebook = nbformat.read(EXAMPLES / "metadata_table.ipynb", as_version=4)
    assert not outputs(notebook, "stdout"), "it is kept without its outputs"
    run(notebook, EXAMPLES)
    assert "41 files processed, 40 results" in outputs(notebook, "stdout")
    assert "heating/scan_broken.csv: extractor_raised" in outputs(notebook, "stdout")
    assert "peak_degrees" in outputs(notebook, "text/html")
    assert outputs(notebook, "image/png")
    assert {path.name for path in EXAMPLES.iterdir()} <= {"metadata_table.ipynb", ".ipynb_checkpoints"}


def test_a_class_of_a_cell_travels_by_value_into_a_ray_that_runs(tmp_path: Path) -> None:
    write_files(tmp_path / "data", {"a.txt": b"1 2.5", "sub/b.txt": b"none"})
    cells = [nbformat.v4.new_code_cell("\n".join(line[4:] for line in cell.splitlines())) for cell in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    run(notebook, tmp_path)
    first, last = outputs(notebook, "stdout").strip().splitlines()
    assert first == "still printed here"
    assert json.loads(last) == [
        [2, 2, 2, 2],
        {"a.txt": {"unit": "mm", "lengths": [2.0, 5.0]}, "sub/b.txt": {"unit": "mm", "lengths": []}},
    ]
    assert "WARNING: a.txt: measured in mm" in outputs(notebook, "stderr")
