"""From the name of an extractor to bytes that a worker can call: import, build, pickle, and say what failed.

Rules:

1. ``_target_`` names a function ``(datafile) -> dict``, a callable object, or a class: a ``MetadataJSONReproducer``
   (anything with ``_get_metadata_dict_for_file``) or one whose instances are callable. The other keys are arguments.
2. It is unpickled once here, before anything is started: what fails, fails on the screen and not on a worker.
3. User code is imported by reference where workers can import it too (``sys_path``, ``working_dir``), and travels
   by value if it is defined in ``__main__``.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import os
import pickle
import pkgutil
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from ray_reproducer.core.errors import ExtractorError

Extract = Callable[[Any], Any]
"""What runs on the workers: from a datafile to its metadata."""
TARGET_KEY: Final = "_target_"
_METHOD: Final = "_get_metadata_dict_for_file"
_DRIVER_HOOKS: Final = ("_on_check", "_on_result_produced", "_on_shutdown")
_JOB_MARK: Final = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in the environment of a submitted job, which has brought its working directory along."""


@dataclass(frozen=True)
class LoadedExtractor:
    """An extractor, ready to be sent.

    Attributes:
        name: what it is called in names of groups and on the screen.
        pickled: the callable, pickled by Ray's cloudpickle.
        sys_path: directories that workers on this machine put first on ``sys.path``.
        module_file: where the code is; None if that is unknown.
        driver_hooks: methods of the user's class that only a run of its own would call, in the driver.
    """

    name: str
    pickled: bytes
    sys_path: tuple[str, ...]
    module_file: Path | None
    driver_hooks: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReproducerArguments:
    """What a ``MetadataJSONReproducer`` is constructed with, apart from the user's own arguments.

    Attributes:
        source_topic: topic with the chunks.
        results_topic: topic for the metadata.
        keywords: arguments that the class gets if its constructor takes them (``output_dir``, ``mode``...).
    """

    source_topic: str
    results_topic: str
    keywords: Mapping[str, Any]


def load(spec: Mapping[str, Any], name: str, reproducer: ReproducerArguments) -> LoadedExtractor:
    """Import and build the extractor that a configuration names, and pickle it.

    Args:
        spec: ``_target_`` and arguments.
        name: name of the extractor; "" for the last part of the target.
        reproducer: what a ``MetadataJSONReproducer`` is constructed with.

    Raises:
        ExtractorError: it can't be imported, built or pickled; the message says which part failed.
    """
    target = spec.get(TARGET_KEY)
    if not isinstance(target, str) or "." not in target.strip("."):
        raise ExtractorError(
            f"extractor.{TARGET_KEY}={target!r} doesn't name an extractor."
            if target
            else f"The extractor's configuration has no {TARGET_KEY}.",
            hint=f"{TARGET_KEY}: my_module.my_function, or my_module.MyReproducer",
        )
    arguments = {str(key): value for key, value in spec.items() if key != TARGET_KEY}
    found = locate(target)
    return prepare(build(found, target, arguments, reproducer), name or target.rpartition(".")[2])


def prepare(extract: Extract, name: str) -> LoadedExtractor:
    """Pickle an extractor and note where its code is.

    Raises:
        ExtractorError: it can't be pickled; the message names the attribute or variable that can't.
    """
    return LoadedExtractor(
        name=name,
        pickled=_pickle(extract, name),
        sys_path=worker_sys_path(),
        module_file=_module_file(extract),
        driver_hooks=_driver_hooks(getattr(extract, "__self__", extract)),
    )


def _driver_hooks(owner: object) -> tuple[str, ...]:
    cls = type(owner)
    found = {name: getattr(cls, name, None) for name in _DRIVER_HOOKS}
    modules = {name: str(getattr(hook, "__module__", "")) for name, hook in found.items() if hook is not None}
    return tuple(f"{cls.__name__}.{name}" for name, module in modules.items() if module.split(".")[0] != __package__)


def worker_sys_path() -> tuple[str, ...]:
    """Directories from which this process imports the user's modules: the working directory and the script's."""
    return tuple(dict.fromkeys([str(Path.cwd()), str(Path(sys.path[0] or ".").absolute())]))


def put_working_directory_first() -> None:
    """Make modules of the working directory importable, before installed ones of the same name."""
    here = str(Path.cwd())
    if sys.path[:1] not in ([here], [""]):
        sys.path.insert(0, here)


def runtime_env_with_code(runtime_env: Mapping[str, Any], module_file: Path | None) -> dict[str, Any]:
    """Add the working directory to a cluster's runtime environment, if the extractor's module lies in it.

    Nothing is added within a submitted job, and none to what the user chose.
    """
    here = Path.cwd()
    chosen = "working_dir" in runtime_env or "py_modules" in runtime_env
    installed = module_file is None or {"site-packages", "dist-packages"} & set(module_file.parts)
    if chosen or installed or _JOB_MARK in os.environ or module_file is None or not module_file.is_relative_to(here):
        return dict(runtime_env)
    return {**runtime_env, "working_dir": str(here)}


def locate(target: str) -> object:
    """Import what a dotted name names.

    Raises:
        ExtractorError: the module or the attribute doesn't exist, or importing the module failed.
    """
    parts = target.split(".")
    module, used = _import_longest(parts)
    found: object = module
    for position, part in enumerate(parts[used:], start=used):
        if not hasattr(found, part):
            raise _no_attribute(found, ".".join(parts[:position]), part)
        found = getattr(found, part)
    if found is module:
        raise ExtractorError(f"{target} is a module.", hint=f"Name a function or class in it. {_functions_of(module)}")
    return found


def build(found: object, target: str, arguments: Mapping[str, Any], reproducer: ReproducerArguments) -> Extract:
    """Make the callable from a function, an object or a class.

    Raises:
        ExtractorError: wrong arguments, or nothing that can be called with a datafile.
    """
    if isinstance(found, type):
        return _instance(found, target, arguments, reproducer)
    if not callable(found):
        raise ExtractorError(
            f"{target} is a {type(found).__name__} and can't be called.",
            hint="An extractor is a function (datafile) -> dict, or a MetadataJSONReproducer.",
        )
    _check_signature(found, target, arguments)
    return functools.partial(found, **arguments) if arguments else found


def _import_longest(parts: list[str]) -> tuple[ModuleType, int]:
    for used in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:used])
        try:
            return importlib.import_module(name), used
        except ModuleNotFoundError as error:
            absent = error.name or ""
            if name != absent and not name.startswith(f"{absent}."):
                raise ExtractorError(
                    f"{name} can't be imported: it needs the module {absent}, which isn't there ({_where(error)}).",
                    hint=f"Install {absent}, or put it into {_search_directory()}.",
                ) from error
        # A module with a mistake may raise anything, and one without a __main__ guard may try to exit.
        except (Exception, SystemExit) as error:
            raise ExtractorError(
                f"Importing {name} failed with {type(error).__name__}: {error} ({_where(error)})."
            ) from error
    raise _no_module(parts[0])


def _instance(cls: type, target: str, arguments: Mapping[str, Any], reproducer: ReproducerArguments) -> Extract:
    is_reproducer = hasattr(cls, _METHOD)
    if not is_reproducer and not any("__call__" in vars(kind) for kind in cls.__mro__):
        raise ExtractorError(
            f"{target} is a class, but no MetadataJSONReproducer, and its instances can't be called.",
            hint=f"Derive it from MetadataJSONReproducer and give it {_METHOD}(self, datafile).",
        )
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
        raise ExtractorError(f"{target} lacks {missing}.", hint=f"Write {missing} in the class.")
    try:
        if not is_reproducer:
            called: Extract = cls(**arguments)
            return called
        keywords = {**_accepted(cls, reproducer.keywords), **arguments}
        instance = cls(None, reproducer.source_topic, reproducer.results_topic, **keywords)
    except ExtractorError:
        raise
    except Exception as error:
        raise ExtractorError(
            f"{target} can't be constructed: {type(error).__name__}: {error} ({_where(error)}).",
            hint="The keys beside _target_ are its keyword arguments.",
        ) from error
    extract: Extract = getattr(instance, _METHOD)
    return extract


def _accepted(cls: type, keywords: Mapping[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(cls).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(keywords)
    return {name: value for name, value in keywords.items() if name in parameters}


def _check_signature(function: Callable[..., Any], target: str, arguments: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions written in C don't say
        return
    try:
        signature.bind(object(), **arguments)
    except TypeError as error:
        given = ", ".join(arguments) or "none"
        raise ExtractorError(
            f"{target}{signature} can't be called with a datafile and these arguments: {given} ({error}).",
            hint="Its first parameter gets the datafile; the keys beside _target_ are its keyword arguments.",
        ) from error


def _no_module(name: str) -> ExtractorError:
    directory = _search_directory()
    beside = [module.name for module in pkgutil.iter_modules([directory])]
    near = difflib.get_close_matches(name, beside, n=1)
    hint = f"Looked in {directory} and in the installed packages. "
    if near:
        hint += f"Did you mean {near[0]}?"
    else:
        hint += f"Modules there: {', '.join(beside[:20])}." if beside else "There is no Python module there."
    return ExtractorError(f"The extractor's module {name} doesn't exist.", hint=hint)


def _no_attribute(owner: object, owner_name: str, name: str) -> ExtractorError:
    near = difflib.get_close_matches(name, [word for word in dir(owner) if not word.startswith("__")], n=1)
    file = getattr(owner, "__file__", None)
    where = f" ({file})" if file else ""
    return ExtractorError(
        f"{owner_name}{where} has no {name}.",
        hint=f"Did you mean {near[0]}?" if near else _functions_of(owner),
    )


def _functions_of(owner: object) -> str:
    own = getattr(owner, "__name__", None)
    names = [
        name
        for name, value in getattr(owner, "__dict__", {}).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", own) == own
    ]
    return f"It has: {', '.join(names[:20])}." if names else ""


def _search_directory() -> str:
    return str(Path(sys.path[0] or ".").absolute())


def _where(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "place unknown"


def _module_file(extract: object) -> Path | None:
    found: Any = extract
    while isinstance(found, functools.partial):
        found = found.func
    owner = getattr(found, "__self__", None)
    if owner is not None and not isinstance(owner, ModuleType):
        found = type(owner)
    elif not hasattr(found, "__qualname__"):
        found = type(found)
    module = sys.modules.get(getattr(found, "__module__", "") or "")
    file = getattr(module, "__file__", None)
    return Path(file).absolute() if file else None


def _pickle(extract: Extract, name: str) -> bytes:
    from ray import cloudpickle

    try:
        pickled = _dumps(extract)
    except Exception as error:
        culprit = _culprit(extract)
        raise ExtractorError(
            f"The extractor {name} can't be sent to the workers: {culprit or error}.",
            hint="Make such things in the worker, when they are first needed, and not before. In a class, __getstate__ "
            "can leave them out: return a copy of super().__getstate__() without them."
            if culprit
            else "Everything that it holds must be picklable.",
        ) from error
    try:
        cloudpickle.loads(pickled)
    except Exception as error:
        raise ExtractorError(
            f"The extractor {name} can't be rebuilt on a worker: {type(error).__name__}: {error} ({_where(error)}).",
            hint="Its pickle must load in a new process: look at __reduce__, __getstate__ and __setstate__.",
        ) from error
    return pickled


def _dumps(value: object) -> bytes:
    from ray import cloudpickle  # Ray's own copy, which is what the workers unpickle with

    dumps: Callable[[object], bytes] = cloudpickle.dumps
    return dumps(value)


def _state(owner: object) -> Mapping[str, object]:
    """Return what would be pickled of an object, by name."""
    try:
        reduced = owner.__reduce_ex__(pickle.DEFAULT_PROTOCOL)
    except Exception:  # noqa: BLE001 - whatever it raises, its attributes are what is left to look at
        reduced = ()
    state = reduced[2] if isinstance(reduced, tuple) and len(reduced) > 2 else None
    return state if isinstance(state, dict) else getattr(owner, "__dict__", {})


def _culprit(extract: object) -> str:
    """Say which attribute, argument or variable of an extractor can't be pickled; "" if none alone is guilty."""
    for label, value in _parts(extract):
        reason = _why_not_picklable(value)
        if reason:
            return f"{label} (a {type(value).__name__}) can't be pickled: {reason}"
    return ""


def _why_not_picklable(value: object) -> str:
    try:
        _dumps(value)
    except Exception as error:  # noqa: BLE001 - whatever it raises, it is the reason
        return str(error) or type(error).__name__
    return ""


def _parts(extract: object) -> list[tuple[str, object]]:
    parts: list[tuple[str, object]] = []
    while isinstance(extract, functools.partial):
        parts += [(f"the argument {name}", value) for name, value in extract.keywords.items()]
        extract = extract.func
    owner = getattr(extract, "__self__", extract)
    if inspect.isfunction(owner):
        closure = inspect.getclosurevars(owner)
        variables = {**closure.globals, **closure.nonlocals}
        parts += [(f"the variable {name}", value) for name, value in variables.items()]
        return parts
    state = _state(owner)
    return parts + [(f"the attribute self.{name} of {type(owner).__name__}", value) for name, value in state.items()]
