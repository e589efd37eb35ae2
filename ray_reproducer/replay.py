"""``python -m ray_reproducer.replay``: dead letters, shown or run again.

Rules:

1. A replay reads only the offsets that the dead letters name. A file that gives metadata now has a normal result, and
   its dead letters are cleared, in the same transaction; one that fails again has a new dead letter in their place.
2. Exit code 0: all that was meant has its result, or nothing was meant; 1: error; 2: wrong settings; 3: a file failed
   again or can't be replayed; 4: another replay of the same dead letters has taken over; 5: stopped before its end.
3. A list goes to stdout; everything else that is for people to stderr.
4. A reason that this version does not give, and that no live dead letter has either, is refused: it is a typing error.
   (One that a letter has is of a later version.)
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from ray_reproducer.app import prepared
from ray_reproducer.command_help import no_extractor, replay_help
from ray_reproducer.config import EMBEDDED_REPLAY, check_regex, checked, kafka_clients
from ray_reproducer.config_checks import closest
from ray_reproducer.config_schema import MAIN_CONFIG, REPLAY_CONFIG, AppConfig, ReplayAppConfig, RunMode, StartAt
from ray_reproducer.core.errors import ConfigurationError, ExtractorError, TransactionOpenError
from ray_reproducer.core.live_letters import Letter
from ray_reproducer.core.reasons import REASONS
from ray_reproducer.core.replay_plan import ReplayPlan, Selection, failed_files
from ray_reproducer.hydra_command import CONF_DIRECTORY, Command, run_command
from ray_reproducer.kafka.replaying import Replay
from ray_reproducer.launch import SpecialRun, launch
from ray_reproducer.observability import replay_report
from ray_reproducer.observability.quantities import count
from ray_reproducer.observability.terminal_text import printable

if TYPE_CHECKING:
    from ray_reproducer.actors.fleet import Fleet
    from ray_reproducer.actors.settings import PipelineSettings
    from ray_reproducer.actors.stopping import StopFlag
    from ray_reproducer.actors.supervisor import Summary

EXIT_NOT_ALL: Final = 3
"""Exit code if a file failed again or can't be replayed."""
EXIT_STOPPED: Final = 5
"""Exit code if it was stopped before its end, as of a drain."""
_DRAINS: Final = ("A replay always drains: it ends when all that it reads has its outcome.", "Leave run=... out.")
_WITHOUT: Final = {"run": _DRAINS, "run.mode": _DRAINS, "kafka=embedded": EMBEDDED_REPLAY}
"""What the main program can be told and a replay can't."""
_FLAGS: Final = {"--list": "replay.list=true", "--details": "replay.details=true"}
_LOG: Final = logging.getLogger("ray_reproducer.replay")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line of ``python -m ray_reproducer.replay``; returns the exit code of the process.

    Args:
        arguments: what stands after the program's name; None: ``sys.argv``.
    """
    command = Command(
        config_name=REPLAY_CONFIG, schema=ReplayAppConfig, job=run_job, help_text=replay_help, without=_WITHOUT
    )
    given = sys.argv[1:] if arguments is None else arguments
    return run_command(command, [_FLAGS.get(argument, argument) for argument in given])


def run_job(config: DictConfig) -> int:
    """Show dead letters, or run them again.

    Raises:
        ReproducerError: settings, extractor, broker or Ray don't allow it.
    """
    plain = checked(config, ReplayAppConfig)
    if plain["replay"]["list"]:
        return show(plain)
    return run_again(plain)


def show(plain: dict[str, Any]) -> int:
    """Print the live dead letters as a table on stdout.

    Raises:
        ReproducerError: settings or broker don't allow it.
    """
    meant = selection(plain["replay"], plain["replay"]["extractor"])
    topic = dead_letters_topic(plain["topics"])
    clients = kafka_clients(plain)
    clients.check()
    replay = Replay(clients, topic, meant, _LOG.warning)
    replay.refresh()
    refuse_unknown_reasons(meant, replay.letters, topic)
    files = replay.chosen()
    console = replay_report.list_console()
    if files:
        details = plain["replay"]["details"] or not meant.is_all or meant.extractor is not None
        (replay_report.print_files if details else replay_report.print_reasons)(console, files)
    notes = Console(file=sys.stderr)
    if not files:
        lines = replay_report.nothing_lines(failed_files(replay.letters), replay.others(), topic, meant.extractor or "")
        replay_report.write_lines(lines, notes)
    replay_report.write_lines(_foreign(replay, topic), notes)
    return 0


def run_again(plain: dict[str, Any]) -> int:
    """Run dead letters again.

    Raises:
        ReproducerError: settings, extractor, broker or Ray don't allow it.
    """
    topics = plain["topics"]
    missing = [f"topics.{key}" for key in ("source", "results") if not topics[key]]
    if missing:
        raise ConfigurationError(
            f"{' and '.join(missing)} must be given.",
            hint=f"Add {' '.join(f'{key}=...' for key in missing)}, as in the run that failed; or --list.",
        )
    if not plain["extractor"]:
        raise ExtractorError(no_extractor())
    topic = dead_letters_topic(topics)
    # What is wrong there is said before anything is loaded.
    selection(plain["replay"], None)
    kafka_clients(plain)
    settings, ray_settings = prepared(_as_main(plain, topic))
    settings.clients.check()
    extractor = plain["replay"]["extractor"] or settings.extractor_name
    meant = selection(plain["replay"], extractor)
    replay = Replay(settings.clients, topic, meant, _LOG.warning, settings.results_topic)
    plan = _first_look(replay, settings, meant)
    notes = Console(file=sys.stderr)
    replay_report.write_lines(_foreign(replay, topic), notes)
    replay_report.write_lines(replay_report.cleared_lines(replay.cleared, settings.results_topic), notes)
    if not (plan.files or plan.refusals or plan.elsewhere):
        if replay.cleared:
            return 0
        live = failed_files(replay.letters)
        replay_report.write_lines(replay_report.nothing_lines(live, replay.others(), topic, extractor), notes)
        return 0
    lines = replay_report.plan_lines(plan, settings.extractor_name, settings.source_topic)
    replay_report.write_lines(lines, notes)
    if not plan.files:
        return EXIT_NOT_ALL if plan.refusals else 0
    # The group is one that nobody has used, whatever the main program's is called.
    settings = replace(settings, group_id=replay.new_group_id())
    return launch(settings, ray_settings, special=_Special(replay, settings).run())


def _first_look(replay: Replay, settings: PipelineSettings, meant: Selection) -> ReplayPlan:
    def look() -> ReplayPlan:
        replay.refresh()
        refuse_unknown_reasons(meant, replay.letters, settings.dead_letters_topic)
        return replay.look(settings.source_topic)

    try:
        return look()
    except TransactionOpenError as error:
        if settings.delivery != "exactly_once":
            raise
        _LOG.warning("%s. If it is one of an earlier replay, it is ended now.", error.message)
        replay.end_leftovers(settings.source_topic)
        return look()


@dataclass(frozen=True)
class _Special:
    """What is different from a run that reads the whole topic."""

    replay: Replay
    settings: PipelineSettings

    def run(self) -> SpecialRun:
        """Make what ``launch`` needs to know."""
        settings = self.settings
        title = f"{settings.extractor_name}: replay of {settings.dead_letters_topic} → {settings.results_topic}"
        return SpecialRun(title, self._fleet, self._report)

    def _fleet(self, settings: PipelineSettings, stop: StopFlag, began_at: Mapping[int, int]) -> Fleet:
        from ray_reproducer.actors.replay_fleet import ReplayFleet

        return ReplayFleet(settings, stop, began_at, replay=self.replay)

    def _report(self, done: Summary) -> tuple[str, int]:
        settings, progress = self.settings, done.progress
        self.replay.refresh()
        left = self.replay.left()
        names = {
            "extractor": settings.extractor_name,
            "results": settings.results_topic,
            "dead_letters": settings.dead_letters_topic,
        }
        plan = self.replay.plan
        lines = replay_report.summary_lines(progress, done.seconds, plan, left, names=names, stopped=done.stopped)
        failed = progress.dead_letters > 0 or plan.refusals or left
        code = EXIT_STOPPED if left and done.stopped else EXIT_NOT_ALL if failed else 0
        return "\n".join(lines), code


def selection(replay: dict[str, Any], extractor: str | None) -> Selection:
    """Say which dead letters are meant.

    Args:
        replay: ``replay.*`` of the configuration.
        extractor: name of the extractor in which they failed; None: any.

    Raises:
        ConfigurationError: a condition is none.
    """
    check_regex(replay["path"], "replay.path")
    reasons = replay["reason"]
    if isinstance(reasons, str) or reasons is None:
        reasons = [reasons] if reasons else []
    if not isinstance(reasons, list) or not all(isinstance(reason, str) for reason in reasons):
        raise ConfigurationError(
            f"replay.reason={reasons} is no reason.", hint="One code, or several: replay.reason=[timeout,not_json]"
        )
    since, until = _time(replay["since"], "replay.since"), _time(replay["until"], "replay.until")
    if since and until and since >= until:
        raise ConfigurationError(f"replay.since={replay['since']} is not before replay.until={replay['until']}.")
    return Selection(replay["path"], tuple(reasons), since, until, extractor)


def refuse_unknown_reasons(meant: Selection, letters: Iterable[Letter], topic: str) -> None:
    """Refuse reasons that nothing can have (rule 4).

    Args:
        meant: which letters are meant.
        letters: the live ones.
        topic: where they are.

    Raises:
        ConfigurationError: there is such a reason.
    """
    known = list(dict.fromkeys([*REASONS, *(letter.letter.reason for letter in letters)]))
    unknown = [reason for reason in meant.reasons if reason not in known]
    if unknown:
        near = closest(unknown[0], known)
        raise ConfigurationError(
            f"replay.reason={unknown[0]} is no reason: this version gives none of that name, and no dead letter on "
            f"{topic} has it.",
            hint=f"{f'Did you mean {near}? ' if near else ''}There are: {printable(', '.join(known))}.",
        )


def dead_letters_topic(topics: dict[str, Any]) -> str:
    """Name the topic with the dead letters.

    Raises:
        ConfigurationError: nothing names it.
    """
    if topics["dead_letters"]:
        return str(topics["dead_letters"])
    if not topics["results"]:
        raise ConfigurationError(
            "topics.results or topics.dead_letters must be given.", hint="Add one of them, as in the run that failed."
        )
    return f"{topics['results']}.dead_letters"


def _time(text: str | None, key: str) -> datetime | None:
    if text is None:
        return None
    # Before Python 3.11 fromisoformat knows no Z.
    written = re.sub(r"[zZ]$", "+00:00", text.strip())
    try:
        time = datetime.fromisoformat(written)
        return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"{key}={text} is no time.", hint="2026-03-01, or 2026-03-01T14:30 (UTC), or 2026-03-01T14:30+01:00"
        ) from None


def _as_main(plain: dict[str, Any], dead_letters: str) -> dict[str, Any]:
    """Make a configuration of the main program of a replay's: what a replay does not have is as by default there."""
    written = OmegaConf.load(CONF_DIRECTORY / f"{MAIN_CONFIG}.yaml")
    keys = [str(key) for key in written if key not in ("defaults", "hydra")]
    if not isinstance(written, DictConfig):
        raise ConfigurationError(f"{CONF_DIRECTORY}/{MAIN_CONFIG}.yaml is no mapping.", hint="Install it again.")
    ours = {key: value for key, value in plain.items() if key != "replay"}
    ours["topics"] = {**plain["topics"], "dead_letters": dead_letters}
    ours["run"] = {**plain["run"], "mode": RunMode.drain}
    ours["start"] = StartAt.earliest
    # A letter may name chunks that came days apart: what is not whole in the end keeps its letter.
    ours["incomplete_after"] = None
    main = OmegaConf.merge(OmegaConf.structured(AppConfig), OmegaConf.masked_copy(written, keys), ours)
    container = OmegaConf.to_container(main, resolve=True)
    if not isinstance(container, dict):
        raise ConfigurationError("The configuration is no mapping.")
    return {str(key): value for key, value in container.items()}


def _foreign(replay: Replay, topic: str) -> list[str]:
    letters = replay.letters
    if not letters.foreign:
        return []
    text = f"Passed over on {topic}: {count(letters.foreign, 'record')} that no dead letter can have; "
    text += f"the first is at {letters.first_foreign}"
    return [printable(text)]


if __name__ == "__main__":
    sys.exit(main())
