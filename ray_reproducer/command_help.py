"""What ``--help`` says, and what to say to somebody who has chosen no extractor yet.

Rule: the keys and their meaning are read from ``conf/``, where their defaults are: they can't be out of date.
"""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import Final

from ray_reproducer.core.reasons import REASONS
from ray_reproducer.hydra_command import CONF_DIRECTORY, user_conf_directory
from ray_reproducer.observability.summary import meaning

_KEYS_MARK: Final = "# keys\n"
"""In a primary configuration: what follows is for people."""

_MAIN: Final = Template("""\
Metadata from files that arrive through Kafka in chunks, made by one Python function, each exactly once.

Commands
  Try an extractor on a directory, without a broker:
    python -m ray_reproducer +extractor=file_info kafka=embedded upload.path=DIR run=drain run.print_results=true
  On a topic, until stopped:
    python -m ray_reproducer +extractor=mine kafka.bootstrap.servers=HOST:PORT topics.source=raw topics.results=metadata
  Several extractors, one after the other, each with a group of its own:
    python -m ray_reproducer -m +extractor=mine,file_info run=drain ...
  On a Ray cluster:
    ray job submit --working-dir . -- python -m ray_reproducer +extractor=mine ray=cluster ...
  Put files on a topic:
    python -m ray_reproducer.upload --help
  Dead letters, shown or run again:
    python -m ray_reproducer.replay --help
  An OpenMSIStream configuration file as YAML for this program:
    python -m ray_reproducer.convert_config --help

Choices: group=option (+extractor=NAME with a plus). ./conf/GROUP/OPTION.yaml adds one.
$groups
Keys: key=value
$keys

Keys of the choices
$choices
More
  --cfg job            the configuration that a command line makes, without running it
  --info searchpath    where configurations are looked for
  HYDRA_FULL_ERROR=1   in the environment: errors with their traceback
  Exit codes           0 all well, 1 error, 2 wrong settings, 4 another instance took over, or this one was suspended
                       in a transaction; of a drain also 3: with dead letters, held files, lost messages,
                       or outcomes that wait for the next start, and 5: stopped before its end
  Ctrl-C or SIGTERM    once: finish what is in flight (for shutdown_timeout at most), commit, leave;
                       twice: leave now, nothing is lost
""")

_UPLOAD: Final = Template("""\
Files of a directory tree onto a Kafka topic, in chunks, in OpenMSIStream's format.

Command
  python -m ray_reproducer.upload upload.path=DIR topics.source=raw kafka.bootstrap.servers=HOST:PORT

Keys: key=value
$keys

Keys of the choices
$choices
More
  --cfg job            the configuration that a command line makes, without running it
  HYDRA_FULL_ERROR=1   in the environment: errors with their traceback
  Exit codes           0 all well, 1 a file failed, or error of broker or topic, 2 wrong settings,
                       130 stopped by Ctrl-C, 143 by SIGTERM
  Ctrl-C or SIGTERM    once: finish what is on its way, leave; twice: leave now
""")

_REPLAY: Final = Template("""\
Dead letters, shown or run again; only the messages that they name are read.

Commands
  What failed, by reason; then the files of one reason:
    python -m ray_reproducer.replay --list topics.results=metadata kafka.bootstrap.servers=HOST:PORT
    python -m ray_reproducer.replay --list replay.reason=timeout topics.results=metadata ...
  All that failed, again, after the extractor was mended:
    python -m ray_reproducer.replay +extractor=mine topics.source=raw topics.results=metadata ...
  Some of it:
    python -m ray_reproducer.replay +extractor=mine 'replay.path=2026-03/.*' replay.reason=[timeout,not_json] ...

Choices: group=option (+extractor=NAME with a plus). ./conf/GROUP/OPTION.yaml adds one.
$groups
Keys: key=value
$keys

Keys of the choices
$choices
Reasons, for replay.reason
$reasons

More
  --list, --details    short for replay.list=true, replay.details=true
  --cfg job            the configuration that a command line makes, without running it
  HYDRA_FULL_ERROR=1   in the environment: errors with their traceback
  Exit codes           0 all well, 1 error, 2 wrong settings, 3 a file failed again or can't be replayed,
                       4 another replay of the same dead letters took over, 5 stopped before its end
  Ctrl-C or SIGTERM    once: finish what is in flight, commit, leave; twice: leave now, nothing is lost
""")

_NO_EXTRACTOR: Final = Template("""\
No extractor is chosen. +extractor=NAME says what makes metadata of a file.

Shipped:
$shipped
Yours, in ./conf/extractor:
$own

To write one, put two files into this directory:

  my_lab.py
    def lines(datafile):
        text = datafile.bytestring.decode()
        return {"file": datafile.filename, "lines": text.count("\\n")}

  conf/extractor/mine.yaml
    _target_: my_lab.lines

and try it on a directory with files, without a broker:

  python -m ray_reproducer +extractor=mine kafka=embedded upload.path=DIR run=drain run.print_results=true

--help lists everything else.""")


def main_help() -> str:
    """Return the help of ``python -m ray_reproducer``, as a template for Hydra, which fills in the groups."""
    choices = ["kafka=default", "kafka=embedded", "run=stream", "run=drain", "ray=local", "ray=cluster"]
    return _with_groups(_MAIN, "ray_reproducer", choices)


def upload_help() -> str:
    """Return the help of ``python -m ray_reproducer.upload``, as a template for Hydra."""
    return _with_groups(_UPLOAD, "ray_reproducer_upload", ["kafka=default"])


def replay_help() -> str:
    """Return the help of ``python -m ray_reproducer.replay``, as a template for Hydra."""
    width = max(map(len, REASONS))
    reasons = "\n".join(f"  {reason:{width}}  {meaning(reason)}" for reason in REASONS)
    choices = ["kafka=default", "ray=local", "ray=cluster"]
    return _with_groups(_REPLAY, "ray_reproducer_replay", choices, reasons=reasons)


def no_extractor() -> str:
    """Say which extractors there are and how to write one."""
    user = user_conf_directory()
    own = _extractors(user) if user else ""
    return _NO_EXTRACTOR.substitute(shipped=_extractors(CONF_DIRECTORY), own=own or "  none")


def _with_groups(template: Template, config_name: str, choices: list[str], **more: str) -> str:
    _, _, keys = (CONF_DIRECTORY / f"{config_name}.yaml").read_text(encoding="utf-8").partition(_KEYS_MARK)
    described = "\n".join(map(_choice, choices)) + "\n"
    text = template.substitute(groups="\0", keys=_indented(keys), choices=described, **more)
    return text.replace("$", "$$").replace("\0", "$APP_CONFIG_GROUPS")


def _choice(choice: str) -> str:
    group, _, option = choice.partition("=")
    text = (CONF_DIRECTORY / group / f"{option}.yaml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("# @")]
    return f"  {choice}\n{_indented(chr(10).join(lines), '    ')}"


def _indented(text: str, by: str = "  ") -> str:
    return "\n".join(f"{by}{line}" if line else "" for line in text.splitlines())


def _extractors(directory: Path) -> str:
    files = sorted((directory / "extractor").glob("*.y*ml"))
    width = max((len(file.stem) for file in files), default=0)
    return "\n".join(f"  {file.stem:{width}}  {_first_comment(file)}".rstrip() for file in files)


def _first_comment(file: Path) -> str:
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("#") and not line.startswith("# @"):
            return line.lstrip("# ").strip()
    return ""
