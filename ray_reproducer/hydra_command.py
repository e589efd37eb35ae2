"""Run a command line through Hydra: its jobs, its help, and one message for whatever goes wrong.

Rules:

1. The configuration is ours in ``conf/``, and the user's ``./conf`` before it, if that is there.
2. Nothing is written into the working directory, and no secret anywhere.
3. An error that a user can cause is one message and a hint on stderr, without a traceback unless
   ``HYDRA_FULL_ERROR=1`` asks for it. Any other error is a defect of this program, and says so.
4. Several brokers stand with commas between them, as everywhere; Hydra alone would take that for a sweep.
5. In a multirun each job runs, whatever becomes of the others; the exit code is the worst one.
6. A group, or an option of one, that a command does not have is not in its help, and who chooses it is told why.
"""

from __future__ import annotations

import atexit
import functools
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import hydra
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, Node, OmegaConf

from ray_reproducer import config_schema
from ray_reproducer.config_checks import is_secret_key, refuse_secrets_in_config, refuse_secrets_in_overrides
from ray_reproducer.core.errors import ConfigurationError, ReproducerError
from ray_reproducer.error_report import FULL_ERROR, guarded, print_error
from ray_reproducer.hydra_errors import explain

CONF_DIRECTORY: Final = Path(__file__).parent / "conf"
"""Where the shipped configuration is."""
_composing: Final = threading.Lock()
"""Hydra has one state for the whole process."""
_BROKERS: Final = re.compile(
    r"(\+{0,2}(?!hydra\.)[\w.@-]*\b(?:bootstrap\.servers|metadata\.broker\.list))"
    r"=(?!\w+\()([^'\"\[{$\\][^'\"\\]*,[^'\"\\]*)"
)
"""An override with a list of brokers that is neither quoted, nor one of Hydra's lists or functions, nor from the
environment."""
_BADNESS: Final = (0, 3, 5, 4, 2, 1)
"""Exit codes from good to bad, to choose the one of a multirun; others are worse."""


@dataclass(frozen=True)
class Command:
    """A command of this program.

    Attributes:
        config_name: the primary configuration in ``conf/``.
        schema: the dataclass with its keys.
        job: does the work for one composed configuration and returns an exit code.
        help_text: makes what ``--help`` prints; ``$APP_CONFIG_GROUPS`` in it becomes the list of groups.
        without: groups (``run``), options (``kafka=embedded``) and keys that other commands have and this one has not,
            each with what is said to who gives it, and what to do instead.
    """

    config_name: str
    schema: type
    job: Callable[[DictConfig], int]
    help_text: Callable[[], str]
    without: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def run_command(command: Command, arguments: Sequence[str]) -> int:
    """Run a command line and return the exit code of the process; errors are on stderr by then."""
    codes: list[int] = []

    def words(error: BaseException) -> ReproducerError | None:
        return explain(error, command.schema)

    def job(config: DictConfig) -> None:
        with _environment(FULL_ERROR, wanted):
            codes.append(guarded(lambda: command.job(config), words))

    def run() -> int:
        refuse_secrets_in_overrides(arguments)
        _refuse_choices(arguments, command.without)
        _prepare_hydra(command.config_name)
        OmegaConf.register_new_resolver("ray_reproducer.help", lambda: _help(command), replace=True)
        if "--resolve" in arguments:  # --cfg job --resolve prints the configuration with the environment's values
            OmegaConf.register_new_resolver("oc.env", _environment_without_secrets, replace=True)
        main = hydra.main(config_path=str(CONF_DIRECTORY), config_name=command.config_name, version_base="1.3")
        # FULL_ERROR: Hydra raises instead of printing and exiting.
        with _arguments(_quoted(arguments)), _environment(FULL_ERROR, "1"):
            main(job)()
        return max(codes, key=_badness, default=0)

    wanted = os.environ.get(FULL_ERROR)
    return guarded(run, words)


def compose(config_name: str, schema: type, overrides: Sequence[str]) -> DictConfig:
    """Compose a configuration outside of a command line, with the same search path, overrides and messages.

    A Hydra application that this process may be is left as it is.

    Args:
        config_name: the primary configuration in ``conf/``.
        schema: the dataclass with its keys.
        overrides: as on the command line, ``key=value``.

    Raises:
        ReproducerError: an override can't be read, or names a key or an option that doesn't exist.
    """
    refuse_secrets_in_overrides(overrides)
    with _composing:
        others = GlobalHydra.instance().hydra
        try:
            _prepare_hydra(config_name)
            GlobalHydra.instance().clear()
            with hydra.initialize_config_dir(str(CONF_DIRECTORY), version_base="1.3"):
                return hydra.compose(config_name, overrides=_quoted(overrides))
        except Exception as error:
            known = explain(error, schema)
            if known is None:
                raise
            raise known from error
        finally:
            GlobalHydra.instance().hydra = others


def user_conf_directory() -> Path | None:
    """Return the working directory's ``conf``, unless there is none or it is ours."""
    directory = Path.cwd() / "conf"
    return directory if directory.is_dir() and not directory.samefile(CONF_DIRECTORY) else None


class UserConfDirectory(SearchPathPlugin):
    """Looks into the working directory's ``conf`` first, if there is one."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Put it before the shipped configuration."""
        directory = user_conf_directory()
        if directory is not None:
            search_path.prepend("working directory", f"file://{directory}", anchor=SearchPathQuery(provider="main"))


class RefuseLiteralSecrets(Callback):
    """Checks the configuration of a multirun before Hydra's sweeper writes it to its private directory."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Leave if there is a literal secret: Hydra turns an exception here into a warning, but not this one."""
        try:
            refuse_secrets_in_config(config)
        except ReproducerError as error:
            print_error(error.message, error.hint)
            raise SystemExit(error.exit_code) from None


def _prepare_hydra(config_name: str) -> None:
    if not (CONF_DIRECTORY / f"{config_name}.yaml").is_file():
        raise ConfigurationError(
            f"{CONF_DIRECTORY} lacks {config_name}.yaml.",
            hint="The installation is incomplete: install it again.",
        )
    config_schema.register()
    Plugins.instance().register(UserConfDirectory)
    OmegaConf.register_new_resolver("ray_reproducer.private_directory", _private_directory, replace=True)


def _refuse_choices(arguments: Sequence[str], without: Mapping[str, tuple[str, str]]) -> None:
    for argument in arguments:
        key, equals, values = argument.lstrip("+").partition("=")
        if not equals:  # an option of Hydra's, or the value of one
            continue
        # In a multirun there may be several options, with commas between.
        for choice in (key, *(f"{key}={value}" for value in values.strip("'\"").split(","))):
            if choice in without:
                message, hint = without[choice]
                raise ConfigurationError(message, hint=hint)


def _help(command: Command) -> str:
    """Fill in the groups that the command has, with their options (rule 6): Hydra would list those of all commands."""
    ours = GlobalHydra.instance().hydra
    if ours is None:
        return command.help_text()
    lines = []
    for group in sorted(ours.list_all_config_groups()):
        if group.partition("/")[0] != "hydra" and group not in command.without:
            options = sorted(GlobalHydra.instance().config_loader().get_group_options(group))
            lines.append(f"{group}: {', '.join(o for o in options if f'{group}={o}' not in command.without)}\n")
    return command.help_text().replace("$APP_CONFIG_GROUPS", "".join(lines).replace("$", "$$"))


@functools.cache
def _private_directory() -> str:
    """Make a directory that only this user can read and that ends with the process; Hydra's sweeper insists on one."""
    directory = tempfile.TemporaryDirectory(prefix="ray_reproducer_")
    atexit.register(directory.cleanup)
    return directory.name


def _environment_without_secrets(name: str, *default: str | None, _node_: Node) -> str | None:
    key = _node_._get_full_key("")  # noqa: SLF001 - OmegaConf has no public way to ask a node for its name
    if is_secret_key(key):
        return "***"
    return os.environ.get(name, *default)


def _badness(code: int) -> int:
    return _BADNESS.index(code) if code in _BADNESS else len(_BADNESS)


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    before = os.environ.get(name)
    _set_environment(name, value)
    try:
        yield
    finally:
        _set_environment(name, before)


def _set_environment(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _quoted(overrides: Sequence[str]) -> list[str]:
    """Quote lists of brokers (rule 4)."""
    found = [(override, _BROKERS.fullmatch(override)) for override in overrides]
    return [f"{match[1]}='{match[2]}'" if match else override for override, match in found]


@contextmanager
def _arguments(arguments: Sequence[str]) -> Iterator[None]:
    """Hand arguments to Hydra, which reads them from ``sys.argv``."""
    before = sys.argv
    # Hydra's parser wants all overrides side by side; people put -m and --cfg job anywhere.
    overrides = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    flags = [argument for argument in arguments if argument not in overrides]
    sys.argv = [before[0] if before else "ray_reproducer", *overrides, *flags]
    try:
        yield
    finally:
        sys.argv = before
