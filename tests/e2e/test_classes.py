"""OpenMSIStream's way: a class in a package of the user's, run as a program, with a configuration file."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.upload import upload_directory
from tests.e2e.conftest import Program, RecordSeen
from tests.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(240)]

RESULTS_DEADLINE_S = 90.0
COUNTING = "def lines(data, newline):\n    return data.count(newline)\n"
READER = '''
from ray_reproducer import MetadataJSONReproducer
from xrd.counting import lines


class LineReader(MetadataJSONReproducer):
    """Counts lines."""

    class ARGUMENT_PARSER_TYPE(MetadataJSONReproducer.ARGUMENT_PARSER_TYPE):
        ARGUMENTS = {
            **MetadataJSONReproducer.ARGUMENT_PARSER_TYPE.ARGUMENTS,
            "newline": ["optional", {"default": ";"}],
        }

    def __init__(self, config_file, consumer_topic_name, producer_topic_name, newline="?", **kwargs):
        super().__init__(config_file, consumer_topic_name, producer_topic_name, **kwargs)
        self.newline = newline.encode()

    @classmethod
    def get_command_line_arguments(cls):
        names, defaults = super().get_command_line_arguments()
        return [*names, "newline"], defaults

    @classmethod
    def get_init_args_kwargs(cls, parsed_args):
        args, kwargs = super().get_init_args_kwargs(parsed_args)
        return args, {**kwargs, "newline": parsed_args.newline}

    def _get_metadata_dict_for_file(self, datafile):
        with self.lock:
            self.logger.info("reading %s", datafile.relative_filepath)
        on_disk = datafile.full_filepath.read_bytes() == datafile.bytestring
        return {"lines": lines(datafile.bytestring, self.newline), "on_disk": on_disk, "group": self.consumer_group_id}


if __name__ == "__main__":
    LineReader.run_from_command_line()
'''


def make_files(directory: Path, number: int) -> Path:
    """Two files to read, and one that the regular expression leaves out."""
    (directory / "sub").mkdir(parents=True)
    (directory / f"a{number}.txt").write_text("1|2|3|\n")
    (directory / f"b{number}.txt").write_text("none")
    (directory / "sub" / f"left_out{number}.txt").write_text("|")
    return directory


def has_results(read_committed: Callable[[str], list[RecordSeen]], topic: str, expected: int) -> bool:
    return len(read_committed(topic)) >= expected


def stop_when(program: Program, condition: Callable[[], bool]) -> None:
    """Stop the program as soon as the condition is true; it has two results of its own then, and is content."""
    wait_until(condition, RESULTS_DEADLINE_S, "the results")
    program.process.send_signal(signal.SIGTERM)
    code, out, err = program.wait()
    assert code == 0, err
    assert out == ""
    assert "2 results" in err


def test_a_class_in_a_package_runs_as_a_program_and_goes_on_where_it_was(
    workspace: Path,
    start_program: Callable[..., Program],
    bootstrap_servers: str,
    unique_topic: Callable[..., str],
    read_committed: Callable[[str], list[RecordSeen]],
) -> None:
    source, results = unique_topic("class.source", partitions=4), unique_topic("class.results")
    package = workspace / "xrd"
    package.mkdir()
    for name, text in {"__init__.py": "", "counting.py": COUNTING, "reader.py": READER}.items():
        (package / name).write_text(text)
    (workspace / "lab.config").write_text(
        "[broker]\nbootstrap.servers = $LAB_SERVERS\n[consumer]\nauto.offset.reset = earliest\n"
        "enable.auto.commit = False\nkey.deserializer = StringDeserializer\n"
    )
    arguments = ["--config", "lab", "--consumer_topic_name", source, "--producer_topic_name", results]
    arguments += ["--consumer_group_id", source, "--mode", "both", "--newline", "|", "--download_regex", "[^/]*$"]
    clients = ClientConfigs({"bootstrap.servers": bootstrap_servers})
    environment = {"module": "xrd.reader", "LAB_SERVERS": bootstrap_servers}
    for number in range(2):
        upload_directory(clients, source, make_files(workspace.parent / f"data{number}", number), chunk_size_bytes=3)
        program = start_program(*arguments, **environment)
        stop_when(program, partial(has_results, read_committed, results, 2 * (number + 1)))
    records = {record.key: record.value for record in read_committed(results)}
    assert len(read_committed(results)) == len(records) == 4
    assert records == {
        f"_{letter}{number}.txt_chunk_processing_result": {"lines": lines, "on_disk": True, "group": source}
        for number in range(2)
        for letter, lines in (("a", 3), ("b", 0))
    }
    assert sorted(path.name for path in (workspace / "LineReader_output").iterdir()) == [
        "a0.txt",
        "a1.txt",
        "b0.txt",
        "b1.txt",
    ]
