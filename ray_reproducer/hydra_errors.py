"""What Hydra and OmegaConf complain about, in the words of this program: what, where, and what to do.

Their errors end in ``ConfigurationError``, so that the command line shows one message and exits with 2.
"""

from __future__ import annotations

import re
from typing import Final

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
    ValidationError,
)

from ray_reproducer.config_checks import closest, first_line, interpolation_error, unknown_key_error
from ray_reproducer.core.errors import ConfigurationError, ReproducerError
from ray_reproducer.error_report import causes, ours

_NOT_OVERRIDDEN: Final = re.compile(r"Could not override '(?P<key>[^']+)'")
_FULL_KEY: Final = re.compile(r"full_key: (?P<key>\S+)")
_ALREADY_THERE: Final = re.compile(r"Multiple values for (?P<group>\S+?)\.")
_HYDRA: Final = frozenset({"hydra", "omegaconf"})
_KEY_VALUE: Final = (
    "Settings are key=value. A value with spaces, commas, brackets, = or $ is quoted twice: 'key=\"a, b\"'."
)
_FILE: Final = re.compile(r"^In '(?P<file>[^']+)'")


def explain(error: BaseException, schema: type) -> ReproducerError | None:
    """Turn an error into one of ours; None if it is nothing that a configuration can cause.

    Args:
        error: what reached the command line.
        schema: the dataclass with the command's keys.
    """
    known = ours(error)
    if known is not None:
        return known
    for cause in causes(error):
        if isinstance(cause, InterpolationResolutionError):
            return interpolation_error(cause)
    if _is_yaml_error(error):
        return ConfigurationError(f"A configuration file is no YAML: {' '.join(str(error).split())}.")
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    if isinstance(error, MissingConfigException):
        return _no_option(error)
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return _composition(error, schema)
    if isinstance(error, (ValueError, TypeError, AssertionError)) and _comes_from_hydra(error):
        # What an assertion says is about Hydra's insides.
        why = "something has no name" if isinstance(error, AssertionError) else first_line(error)
        return ConfigurationError(f"The command line can't be read: {why}.", hint=_KEY_VALUE)
    return None


def _comes_from_hydra(error: BaseException) -> bool:
    """Whether Hydra itself raised it, as it does for things that it did not expect anybody to type (``=5``, ``+=``)."""
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None:
        frames = frames.tb_next
    return frames is not None and str(frames.tb_frame.f_globals.get("__name__")).partition(".")[0] in _HYDRA


def _is_yaml_error(error: BaseException) -> bool:
    # By name: PyYAML is Hydra's dependency, not ours.
    return any(kind.__module__.partition(".")[0] == "yaml" for kind in type(error).__mro__)


def _unreadable(error: OverrideParseException) -> ConfigurationError:
    what = f"{error.override!r} can't be read" if error.override else "The command line can't be read"
    return ConfigurationError(
        f"{what}: {first_line(error)}.",
        hint=_KEY_VALUE,
    )


def _no_option(error: MissingConfigException) -> ConfigurationError:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    options = sorted(error.options or ())
    if not group or not options:
        return ConfigurationError(
            f"{error.missing_cfg_file or first_line(error)} doesn't exist in the configuration.",
            hint="--help lists groups and keys; --info searchpath says where they are looked for.",
        )
    near = closest(option, options)
    hint = f"Did you mean {near}? " if near else ""
    return ConfigurationError(
        f"There is no {group} called {option}.",
        hint=f"{hint}There are: {', '.join(options)}. ./conf/{group}/{option}.yaml would add it.",
    )


def _composition(error: BaseException, schema: type) -> ConfigurationError:
    text = "\n".join(str(cause) for cause in causes(error))
    group = _ALREADY_THERE.search(text)
    if group:
        return ConfigurationError(
            f"{group['group']} has an option already.", hint=f"Write {group['group']}=... without a plus."
        )
    not_overridden = _NOT_OVERRIDDEN.search(text)
    if not_overridden and "defaults list" in text:
        key = not_overridden["key"]
        return ConfigurationError(f"{key} has no option yet.", hint=f"Write +{key}=... with a plus.")
    full_key = _FULL_KEY.search(text)
    if _is_unknown_key(error) and (not_overridden or full_key):
        match = not_overridden or full_key
        return _in_file(unknown_key_error(match["key"] if match else "", schema), text)
    return _in_file(_wrong_value(error, text), text)


def _is_unknown_key(error: BaseException) -> bool:
    return any(isinstance(cause, (ConfigKeyError, ConfigAttributeError)) for cause in causes(error)) or bool(
        re.search(r"Key '[^']*' (is )?not in", str(error))
    )


def _wrong_value(error: BaseException, text: str) -> ConfigurationError:
    full_key = _FULL_KEY.search(text)
    for cause in causes(error):
        if isinstance(cause, ValidationError):
            key = cause.full_key or (full_key["key"] if full_key else "")
            return ConfigurationError(f"{key}: {first_line(cause)}.".removeprefix(": "))
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ConfigurationError(" ".join(lines) or type(error).__name__)


def _in_file(error: ConfigurationError, text: str) -> ConfigurationError:
    """Add the configuration file to the message, if the mistake is in one."""
    file = _FILE.search(text)
    if not file:
        return error
    return ConfigurationError(f"{error.message} (in {file['file']}.yaml)", hint=error.hint)
