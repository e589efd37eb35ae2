"""A class in a package of the user's: run as a program, as OpenMSIStream's users do, and named in ``conf/``."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.upload import upload_directory
from tests.e2e.conftest import Program, RecordSeen, write_files
from tests.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(240)]

RESULTS_DEADLINE_S = 120.0
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


DIRECT = {"_target_": "xrd.reader.LineReader", "newline": "|"}


def make_files(directory: Path, number: int) -> Path:
    """Two files to read, and one that the regular expression leaves out."""
    write_files(
        directory,
        {
            f"a{number}.txt": b"1|2|3|\n",
            f"b{number}.txt": b"none",
            f"sub/left_out{number}.txt": b"|",
        },
    )
    return directory


def results_expected(numbers: Iterable[int], group: str) -> dict[str, Any]:
    """Key and value of each result that is due of these batches of files."""
    return {
        f"_{letter}{number}.txt_chunk_processing_result": {"lines": lines, "on_disk": True, "group": group}
        for number in numbers
        for letter, lines in (("a", 3), ("b", 0))
    }


def class_arguments(source: str, results: str) -> list[str]:
    """OpenMSIStream's arguments, with the source topic's name for the group."""
    arguments = ["--config", "lab", "--consumer_topic_name", source, "--producer_topic_name", results]
    return [*arguments, "--consumer_group_id", source, "--mode", "both"]


@pytest.fixture(name="package")
def _package(workspace: Path) -> None:
    """A package with the class and a module that it uses, a configuration file, and Hydra's."""
    (workspace / "xrd").mkdir()
    for name, text in {"__init__.py": "", "counting.py": COUNTING, "reader.py": READER}.items():
        (workspace / "xrd" / name).write_text(text)
    (workspace / "lab.config").write_text(
        "[broker]\nbootstrap.servers = $LAB_SERVERS\n[consumer]\nauto.offset.reset = earliest\n"
        "enable.auto.commit = False\nkey.deserializer = StringDeserializer\n"
    )
    (workspace / "conf" / "extractor" / "lines.yaml").write_text(json.dumps(DIRECT))


OWN_MAIN = '''
import shutil
import signal
import sys

from xrd.reader import LineReader


class OwnMain(LineReader):
    """Runs itself step by step, as OpenMSIStream's own programs do."""

    @classmethod
    def run_from_command_line(cls, args=None):
        parser = cls.get_argument_parser()
        parser.add_argument("--greeting", default="Done")
        args = parser.parse_args(args=args)
        init_args, init_kwargs = cls.get_init_args_kwargs(args)
        reader = cls(*init_args, **init_kwargs)
        (
            n_read,
            n_processed,
            n_files,
            n_results,
            filepaths,
        ) = reader.produce_processing_results_for_files_as_read()
        reader.close()
        print(f"{args.greeting}: {n_read} {n_processed} {n_files} {n_results}", *sorted(map(str, filepaths)))


def main(args=None):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), sys.stdout
    OwnMain.run_from_command_line(args)
    import ray

    print(before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT), sys.stdout))
    print(ray.is_initialized())


if __name__ == "__main__":
    main()
'''


@pytest.mark.usefixtures("package")
def test_a_program_that_runs_a_class_step_by_step_gets_its_process_back(
    workspace: Path, start_program: Callable[..., Program]
) -> None:
    (workspace / "xrd" / "own_main.py").write_text(OWN_MAIN)
    data = make_files(workspace.parent / "data", 0)
    arguments = ["--config", "lab", "--topic_name", "raw", "--producer_topic_name", "metadata", "--mode", "both"]
    arguments += ["--greeting", "Well", "--", "kafka=embedded", f"upload.path={data}", "run=drain"]
    code, out, err = start_program(*arguments, module="xrd.own_main", LAB_SERVERS="nowhere:1").wait()
    assert code == 0, err
    assert out.splitlines() == ["Well: 3 3 3 3 a0.txt b0.txt sub/left_out0.txt", "True", "False"]
    assert "[OwnMain " in err
    assert "INFO: a0.txt: reading a0.txt" in err


@pytest.mark.usefixtures("package")
def test_a_class_is_a_program_and_an_extractor_and_keeps_its_place(
    workspace: Path,
    start_program: Callable[..., Program],
    bootstrap_servers: str,
    unique_topic: Callable[..., str],
    read_committed: Callable[[str], list[RecordSeen]],
) -> None:
    source, results = unique_topic("class.source", partitions=4), unique_topic("class.results")
    clients = ClientConfigs({"bootstrap.servers": bootstrap_servers})

    # As a program of its own, with OpenMSIStream's arguments and one of its own, until it is stopped.
    upload_directory(clients, source, make_files(workspace.parent / "data0", 0), chunk_size_bytes=3)
    arguments = [*class_arguments(source, results), "--newline", "|", "--download_regex", "[^/]*$"]
    program = start_program(*arguments, module="xrd.reader", LAB_SERVERS=bootstrap_servers)
    wait_until(lambda: len(read_committed(results)) >= 2, RESULTS_DEADLINE_S, "the results")
    program.process.send_signal(signal.SIGTERM)
    code, out, err = program.wait()
    assert (code, out) == (0, ""), err
    assert "2 results" in err
    assert {record.key: record.value for record in read_committed(results)} == results_expected([0], source)

    # As an extractor that Hydra finds, in the same group: it does what has come since.
    upload_directory(clients, source, make_files(workspace.parent / "data1", 1), chunk_size_bytes=3)
    arguments = ["+extractor=lines", f"kafka.bootstrap.servers={bootstrap_servers}", f"topics.source={source}"]
    arguments += [f"topics.results={results}", f"group_id={source}", "filepath_regex='[^/]*$'"]
    arguments += ["extraction.datafile=both", "output_dir=LineReader_output", "run=drain"]
    code, _, err = start_program(*arguments).wait()
    assert code == 0, err
    assert "2 results" in err
    records = read_committed(results)
    assert len(records) == 4
    assert {record.key: record.value for record in records} == results_expected([0, 1], source)

    # As a program again, which ends by itself, with settings of this program after "--".
    upload_directory(clients, source, make_files(workspace.parent / "data2", 2), chunk_size_bytes=3)
    arguments = [*class_arguments(source, results), "--newline", "|", "--download_regex", "[^/]*$"]
    arguments += ["--n_producer_threads", "5", "--", "run=drain", "run.print_results=true", "commit_interval=0.2"]
    code, out, err = start_program(*arguments, module="xrd.reader", LAB_SERVERS=bootstrap_servers).wait()
    assert code == 0, err
    assert {json.loads(line)["path"] for line in out.splitlines()} == {"a2.txt", "b2.txt"}
    assert "a2.txt: reading a2.txt" in err, "what a worker logs has its file's name"
    assert "n_producer_threads=5 is not used" in err
    assert len(read_committed(results)) == 6
    on_disk = sorted(path.name for path in (workspace / "LineReader_output").iterdir())
    assert [name for name in on_disk if name != "LOGS"] == [f"{letter}{n}.txt" for letter in "ab" for n in range(3)]


def registered(workspace: Path, results: str) -> list[str]:
    """Paths in the registry of results, in order."""
    (registry,) = (workspace / "LineReader_output" / "LOGS").glob(f"results_produced_to_{results}*.csv")
    with registry.open(encoding="utf-8", newline="") as file:
        return sorted(row["rel_filepath"] for row in csv.DictReader(file, delimiter=";"))


@pytest.mark.usefixtures("package")
def test_a_class_that_is_stopped_abruptly_goes_on_where_it_was(
    workspace: Path,
    start_program: Callable[..., Program],
    bootstrap_servers: str,
    unique_topic: Callable[..., str],
    read_committed: Callable[[str], list[RecordSeen]],
) -> None:
    source, results = unique_topic("class.source", partitions=4), unique_topic("class.results")
    clients = ClientConfigs({"bootstrap.servers": bootstrap_servers})
    arguments = ["--config", "lab", "--consumer_topic_name", source, "--producer_topic_name", results]
    arguments += [
        "--consumer_group_id",
        source,
        "--mode",
        "both",
        "--newline",
        "|",
        "--",
        "extraction.max_batch_files=1",
    ]

    program = start_program(*arguments, module="xrd.reader", LAB_SERVERS=bootstrap_servers)
    for number in range(20):
        upload_directory(clients, source, make_files(workspace.parent / f"data{number}", number), chunk_size_bytes=3)
    wait_until(lambda: len(read_committed(results)) >= 10, RESULTS_DEADLINE_S, "some results")
    program.kill()

    # The registries are views: they are made anew from the topics, even if they are gone.
    shutil.rmtree(workspace / "LineReader_output" / "LOGS")
    arguments += ["run=drain"]
    code, _, err = start_program(*arguments, module="xrd.reader", LAB_SERVERS=bootstrap_servers).wait()
    assert code == 0, err
    keys = [record.key for record in read_committed(results)]
    assert len(keys) == len(set(keys)) == 60
    assert registered(workspace, results) == sorted(
        repr(path) for number in range(20) for path in (f"a{number}.txt", f"b{number}.txt", f"sub/left_out{number}.txt")
    )
