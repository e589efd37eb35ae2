"""``python -m ray_reproducer``: from a composed configuration to a run, and back to an exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from typing import Any, Final

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ray_reproducer.actors.settings import PipelineSettings, RaySettings
from ray_reproducer.command_help import main_help, no_extractor
from ray_reproducer.config import checked, pipeline_settings, ray_settings, run_arguments, view_settings
from ray_reproducer.config_schema import MAIN_CONFIG, AppConfig, RayMode
from ray_reproducer.core.errors import ExtractorError
from ray_reproducer.error_report import print_error
from ray_reproducer.extractor_loading import load, put_working_directory_first, runtime_env_with_code
from ray_reproducer.hydra_command import Command, run_command
from ray_reproducer.launch import launch, was_stopped

_LOG: Final = logging.getLogger("ray_reproducer.app")
_STDOUT: Final = 1
_STDERR: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line of ``python -m ray_reproducer``; returns the exit code of the process.

    Args:
        arguments: what stands after the program's name; None: ``sys.argv``.
    """
    command = Command(config_name=MAIN_CONFIG, schema=AppConfig, job=run_job, help_text=main_help)
    return run_command(command, sys.argv[1:] if arguments is None else arguments)


def run_job(config: DictConfig) -> int:
    """Run one job: the only one, or one of a multirun.

    Raises:
        ReproducerError: settings, extractor, broker or Ray don't allow it.
    """
    if was_stopped():
        print_error(f"{_job_label()} is not started, because the program was asked to stop.")
        return 0
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        sys.stderr.write(f"\n{_job_label()}\n")
    if not config.extractor:
        raise ExtractorError(no_extractor())
    plain = checked(config, AppConfig)
    settings, ray = prepared(plain)
    return launch(settings, ray, view_settings(plain, settings.extractor_name))


def prepared(plain: dict[str, Any]) -> tuple[PipelineSettings, RaySettings]:
    """Load the extractor that a checked configuration names, and make the settings of a run.

    Raises:
        ReproducerError: settings or extractor don't allow it.
    """
    put_working_directory_first()
    name = extractor_name(plain["extractor"])
    with _stdout_on_stderr():
        extractor = load(plain["extractor"], name, run_arguments(plain, name))
    settings = pipeline_settings(plain, extractor)
    for hook in extractor.driver_hooks:
        _LOG.warning("%s is called only if the class runs by its own command line (python -m MODULE), not here.", hook)
    env = plain["ray"]["runtime_env"]
    if plain["ray"]["mode"] is RayMode.cluster:
        env = runtime_env_with_code(env, extractor.module_file)
        if "working_dir" in env:
            # What is sent along is the code, also on a node that has an older copy of it at the path of ours.
            settings = replace(settings, sys_path=())
    return settings, ray_settings(plain, env)


def extractor_name(spec: dict[str, Any]) -> str:
    """Name the extractor: the option that was chosen (``+extractor=mine``), else the last part of its target."""
    chosen = HydraConfig.get().runtime.choices.get("extractor")
    return str(chosen) if chosen else str(spec.get("_target_", "")).rpartition(".")[2]


@contextmanager
def _stdout_on_stderr() -> Iterator[None]:
    """Let stderr have what user code prints while it is imported and made, by whatever way: stdout is for results."""
    if sys.stdout is None:
        yield
        return
    sys.stdout.flush()
    stdout = os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, _STDOUT)
        os.close(stdout)


def _job_label() -> str:
    job = HydraConfig.get()
    overrides = " ".join(job.overrides.task)
    return f"Job {int(job.job.num) + 1}: {overrides}" if job.mode == RunMode.MULTIRUN else "The job"
