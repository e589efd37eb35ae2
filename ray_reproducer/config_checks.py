"""What is refused in a configuration before anything is done with it: unknown keys, and secrets in plain sight.

Rules:

1. A key that the structured configs don't have is refused, however it was given (``+key=value`` would get past
   Hydra), with the closest key as a hint. Open dictionaries take any key.
2. The value of a secret key is ``${oc.env:NAME}`` and nothing else: Hydra keeps configurations in memory, prints
   them (``--cfg``) and writes them (multirun). It is checked where it is written, before it is resolved.
3. No message repeats a secret.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, cast, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from ray_reproducer.core.errors import ConfigurationError
from ray_reproducer.kafka.properties import is_secret

_SECRET_KEY: Final = re.compile(
    r"(^|[._-])(password|passwd|passphrase|secret|secret_key|access_key|api_key|apikey|token)$",
    re.IGNORECASE,
)
_KAFKA_GROUPS: Final = ("heartbeat.kafka", "log.kafka", "kafka", "consumer", "producer")
_ENVIRONMENT: Final = re.compile(r"^\$\{oc\.env:\s*[A-Za-z_]\w*\s*\}$")
_OVERRIDE: Final = re.compile(r"^(?P<sign>\+\+|\+|~|)(?P<key>[^=]+)=(?P<value>.*)$", re.DOTALL)
_INNER_ITEM: Final = re.compile(
    r"""["']?(?P<key>[\w.]+)["']?\s*:\s*(?P<value>\$\{[^}]*\}|"[^"]*"|'[^']*'|[^,{}\[\]]*)"""
)
_ENVIRONMENT_NOT_FOUND: Final = re.compile(r"Environment variable '(?P<name>[^']*)' not found")


def is_secret_key(key: str) -> bool:
    """Tell whether the value of this dotted key must not be seen."""
    for group in _KAFKA_GROUPS:
        if key.startswith(f"{group}."):
            return is_secret(key.removeprefix(f"{group}."))
    return _SECRET_KEY.search(key) is not None


def refuse_secrets_in_overrides(overrides: Iterable[str]) -> None:
    """Refuse secrets given literally on the command line, before Hydra can repeat them in a message.

    Raises:
        ConfigurationError: if there is one; the message names the key only.
    """
    for override in overrides:
        match = _OVERRIDE.match(override)
        if match is None:
            continue
        key, value = match["key"], match["value"]
        _refuse_literal(key, value)
        if value.lstrip()[:1] in {"{", "["}:
            for inner in _INNER_ITEM.finditer(value):
                _refuse_literal(f"{key}.{inner['key']}", inner["value"])


def refuse_secrets_in_config(config: DictConfig) -> None:
    """Refuse secrets that stand literally in a configuration that is not resolved yet.

    Raises:
        ConfigurationError: if there is one; the message names the key only.
    """
    written = OmegaConf.to_container(config, resolve=False, throw_on_missing=False)
    for key, value in _leaves(written, ""):
        if value is not None and not key.startswith("hydra."):
            _refuse_literal(key, str(value))


def _refuse_literal(key: str, value: str) -> None:
    stripped = value.strip().strip("\"'")
    if not is_secret_key(key) or stripped in {"", "null", "???"} or _ENVIRONMENT.match(stripped):
        return
    raise ConfigurationError(
        f"{key} is a secret and is given literally.",
        hint=f"Put it into an environment variable and name that (in single quotes): '{key}=${{oc.env:NAME}}'",
    )


def refuse_unknown_keys(config: DictConfig, schema: type) -> None:
    """Refuse keys that the schema, a dataclass, doesn't have.

    Raises:
        ConfigurationError: for the first of them, with the closest key that there is.
    """
    written = OmegaConf.to_container(config, resolve=False, throw_on_missing=False)
    for key in _unknown(written, schema, ""):
        raise unknown_key_error(key, schema)


def unknown_key_error(key: str, schema: type) -> ConfigurationError:
    """Make the error for a key that doesn't exist: it names the closest one, or those beside it."""
    known = known_keys(schema)
    near = closest(key, known)
    group = key.rpartition(".")[0]
    beside = [name for name in known if name.startswith(f"{group}.")] if group else []
    if near:
        hint = f"Did you mean {near}? "
    elif beside:
        hint = f"Keys of {group}: {', '.join(name.rpartition('.')[2] for name in beside)}. "
    else:
        hint = ""
    return ConfigurationError(f"There is no key {key}.", hint=f"{hint}--help lists all keys.")


def missing_keys(config: DictConfig) -> list[str]:
    """List the keys that must be given and aren't. Unlike OmegaConf's own list, this one resolves nothing."""
    written = OmegaConf.to_container(config, resolve=False, throw_on_missing=False)
    return [key for key, value in _leaves(written, "") if value == "???"]


def known_keys(schema: type) -> list[str]:
    """List the dotted keys of a dataclass of settings, in their order."""
    return list(_keys(schema, ""))


def closest(word: str, words: Sequence[str]) -> str:
    """Return the one of the words that was probably meant, or ""."""
    found = difflib.get_close_matches(word, words, n=1, cutoff=0.7)
    if not found:  # the right name below another parent: datafile -> extraction.datafile
        last = word.rpartition(".")[2]
        found = [name for name in words if name.rpartition(".")[2] == last]
    return found[0] if len(found) == 1 else ""


def resolve(config: DictConfig) -> dict[str, Any]:
    """Turn a configuration into plain dictionaries and values.

    Raises:
        ConfigurationError: for an environment variable that isn't set, and for an interpolation that can't be resolved.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    except InterpolationResolutionError as error:
        raise interpolation_error(error) from error
    except OmegaConfBaseException as error:
        raise ConfigurationError(f"{error.full_key}: {first_line(error)}") from error
    if not isinstance(plain, dict):
        raise ConfigurationError("The configuration is no mapping.")
    return {str(key): value for key, value in plain.items()}


def interpolation_error(error: InterpolationResolutionError) -> ConfigurationError:
    """Make the error for ``${...}`` that has no value."""
    match = _ENVIRONMENT_NOT_FOUND.search(str(error))
    if match:
        return ConfigurationError(
            f"{error.full_key} is taken from the environment variable {match['name']}, which is not set.",
            hint=f"Set it: export {match['name']}=...",
        )
    return ConfigurationError(f"{error.full_key} can't be resolved: {first_line(error)}")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _keys(schema: type, prefix: str) -> Iterator[str]:
    for name, kind in get_type_hints(schema).items():
        key = f"{prefix}.{name}" if prefix else name
        if dataclasses.is_dataclass(kind):
            yield from _keys(cast("type", kind), key)
        else:
            yield key


def _unknown(value: object, schema: type, prefix: str) -> Iterator[str]:
    kinds = get_type_hints(schema)
    if not isinstance(value, dict):
        return
    for name, inner in value.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        kind = kinds.get(str(name))
        if kind is None:
            yield key
        elif dataclasses.is_dataclass(kind):
            yield from _unknown(inner, cast("type", kind), key)


def _leaves(value: object, prefix: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _leaves(inner, prefix)
    else:
        yield prefix, value
