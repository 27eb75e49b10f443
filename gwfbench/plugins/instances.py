"""Tasks and methods given as Python objects: an instance, or a class, of a plug-in, a notebook cell or a script."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from gwfbench.errors import UserError, require
from gwfbench.plugins import registry, single
from gwfbench.plugins.discovery import CAPABILITY, EXAMPLES, VARIABLES, Kind, Plugin


def plugin_of(kind: Kind, cls: type) -> Plugin:
    """The plug-in of this class; of one that is in no plug-in's file, what its class variables say.

    Raises:
        UserError: it is none, or its name is taken by another.
    """
    for known in registry.plugins(kind).values():
        if (known.module, known.cls) == (cls.__module__, cls.__name__):
            return known
    lacks = sorted(name for name in VARIABLES[kind] if getattr(cls, name, None) is None)
    require(
        not lacks,
        f"class {cls.__name__} has no class variable {', '.join(lacks)}",
        f"a {kind} as gwfbench.protocol describes it",
        "write into the class: " + "; ".join(f"{name}: ClassVar = {EXAMPLES[name]}" for name in lacks),
    )
    of_file = _of_file(kind, cls)
    if of_file is not None:
        return of_file
    name = cls.__name__.lower()
    taken = name in registry.plugins(kind) or name in registry.CONTROLS
    require(not taken, f"class {cls.__name__}", f"a name that no {kind} has: '{name}' is taken", "rename the class")
    infos, choice = (frozenset(i.__name__ for i in getattr(cls, v, ())) for v in (CAPABILITY[kind], "one_of"))
    return Plugin(name, kind, cls.__module__, cls.__name__, "this session", "", infos, choice)


def _of_file(kind: Kind, cls: type) -> Plugin | None:
    """The plug-in that the file of an imported class is, as with `--plugin`, so that child processes find it too."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if cls.__module__ == "__main__" or file is None:
        return None
    before = os.environ.get(single.FILES, "")
    registry.add_files([Path(file)])
    for known in registry.plugins(kind).values():
        if known.cls == cls.__name__ and known.file and Path(known.file).samefile(file):
            return known
    os.environ[single.FILES] = before  # it would be listed as a broken plug-in from here on
    registry.plugins.cache_clear()
    raise UserError(
        f"class {cls.__name__} of {file}",
        f"a file whose one {kind} it is",
        "give it a file of its own; python -m gwfbench list --plugin FILE says what is wrong with one",
    )


def settled(kind: Kind, given: Any) -> Any:
    """The instance that is meant, with its fields as their text would give them: 1 is 1.0 where a float is meant.

    Raises:
        UserError: it is no task or method, or a field has a value that can't be written as text.
    """
    if isinstance(given, str):
        return registry.parse(kind, given)
    cls = given if isinstance(given, type) else type(given)
    plugin = plugin_of(kind, cls)
    registry.require_frozen(cls, plugin.name)
    text = "" if isinstance(given, type) else registry.typed_fields(given)
    made = registry.configure(cls, plugin.name, registry.typed(f"{plugin.name}:{text}"))
    require(
        isinstance(given, type) or made == given,
        f"{given!r}",
        "fields that are numbers, words, true or false, or None",
        "give such fields, from which the object is made again",
    )
    loaded = plugin.load() if plugin.file and cls.__module__ != plugin.module else cls
    return made if loaded is cls else registry.configure(loaded, plugin.name, registry.typed(f"{plugin.name}:{text}"))


def fit(task: Any, method: Any) -> None:
    """Raise `UserError` unless the method fits the task."""
    registry.require_fit(plugin_of("task", type(task)), plugin_of("method", type(method)))


def in_session(plugin: object) -> bool:
    """Whether the class is in no file that another process could import."""
    return type(plugin).__module__ == "__main__"


def pack(*plugins: object) -> str:
    """Objects with their classes, by value, as text for a process of ours: a class of a cell is nowhere else.

    Raises:
        UserError: what a class refers to can't be sent.
    """
    import base64

    import cloudpickle

    try:
        return base64.b64encode(cloudpickle.dumps(plugins)).decode()
    except Exception as error:
        names = ", ".join(type(plugin).__name__ for plugin in plugins)
        raise UserError(
            f"{names} can't be sent to another process: {error}",
            "classes that refer to modules, functions and plain values only",
            "write the class into a file, or run it with isolate=False",
        ) from error


def unpack(text: str) -> tuple[Any, ...]:
    """The objects. Only for what `pack` made in a process of ours: to unpack is to run code."""
    import base64
    import pickle

    return pickle.loads(base64.b64decode(text))
