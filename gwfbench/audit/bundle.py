"""Results that travel: runs, the source of their plug-ins and a list of hashes in one ZIP file, checked on arrival.

    manifest.json                 what is in it, and the sha256 of every other file
    runs/<attempt>/..., env-*     the folders of runs as the runner sealed them, and the environments
    source/...                    each plug-in's module and what it imports of its own package

Hashes and seals find what has changed on the way or by accident. They are no signatures: whoever edits a number can
make them anew. So `commands/accept.py` also runs some of the runs again, from the source in the bundle.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from gwfbench import __version__
from gwfbench.errors import UserError
from gwfbench.plugins import registry
from gwfbench.plugins.discovery import HOME
from gwfbench.store import checked, fingerprint, folders, inputs
from gwfbench.store.record import Run, to_json

SCHEMA = 1
MANIFEST = "manifest.json"
LARGEST = 2**31  # bytes of an unpacked file
SAFE = re.compile(r"(runs|source)/[\w.+-]+(/[\w.+-]+)*")


@dataclass(frozen=True)
class Bundle:
    """What a bundle has, unpacked."""

    place: Path
    by: str
    made: str
    plugins: list[dict[str, Any]]
    wrong: list[str] = field(default_factory=list)  # files that are not what the manifest says

    @property
    def runs(self) -> Path:
        return self.place / "runs"

    def single_files(self) -> list[Path]:
        """The plug-ins that are files of their own, to be loaded from here."""
        return [self.place / one["source"][0] for one in self.plugins if one["single"]]


def pack(out: Path, runs: Sequence[Run], target: Path, by: str) -> int:
    """Write the attempts of these runs under `out`, their environments and plug-ins' source; the number of files.

    Raises:
        UserError: the file can't be written; one that exists is not written over.
    """
    places = folders.places(out)
    files: dict[str, Path] = {}
    for run in runs:
        files |= {f"runs/{places[run.attempt].name}/{name}": places[run.attempt] / name
                  for name in (*sorted(folders.WHOLE), "run.json")}  # fmt: skip
    for env in sorted({run.env for run in runs}):
        path = out / f"env-{env}.json"
        if path.is_file():
            files[f"runs/{path.name}"] = path
    plugins = []
    for kind, name in sorted({("method", registry.head(run.identity.method)) for run in runs}
                             | {("task", registry.head(run.identity.task)) for run in runs}):  # fmt: skip
        if kind == "task" or not registry.is_control(name):
            plugin = registry.find(kind, name)  # type: ignore[arg-type]
            if plugin.origin != "gwfbench":
                source = _source(plugin)
                files |= source
                single = plugin.module.partition(".")[0] == HOME
                plugins.append({"kind": kind, "name": name, "origin": "" if single else plugin.origin,
                                "version": "" if single else version(plugin.origin), "single": single,
                                "source": list(source)})  # fmt: skip
    hashes = {name: _sha256(path.read_bytes()) for name, path in sorted(files.items())}
    said = {"schema": SCHEMA, "gwfbench": __version__, "by": by, "plugins": plugins, "files": hashes,
            "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}  # fmt: skip
    try:
        with zipfile.ZipFile(target, "x", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr(MANIFEST, to_json(said, indent=2) + "\n")
            for name, path in sorted(files.items()):
                packed.write(path, name)
    except OSError as error:
        raise UserError(f"{target}: {error.strerror}", "a file that can be written", "name another one") from None
    return len(files)


def _source(plugin: registry.Plugin) -> dict[str, Path]:
    """The plug-in's module first, then what it imports that is not gwfbench's, and its named settings."""
    found: dict[str, Path] = {}
    for module in (plugin.module, *sorted(fingerprint.closure(plugin.module) - {plugin.module})):
        file = fingerprint.read(module).file or fingerprint.locate(module)
        if file is not None and file.suffix == ".py" and module.partition(".")[0] != "gwfbench":
            inner = module.partition(".")[2] if module.partition(".")[0] == HOME else module
            parts = [*inner.split("."), "__init__"] if file.name == "__init__.py" else inner.split(".")
            found[str(PurePosixPath("source", *parts).with_suffix(".py"))] = file
            if module == plugin.module and file.with_suffix(".toml").is_file():
                found[str(PurePosixPath("source", *parts).with_suffix(".toml"))] = file.with_suffix(".toml")
    return found


def unpack(path: Path, place: Path) -> Bundle:
    """Unpack a bundle and compare every file with its hash; what differs is in `wrong`.

    Raises:
        UserError: it is no bundle, or would write elsewhere than in `place`.
    """
    example = "a bundle, as `gwfbench bundle` writes it"
    try:
        with zipfile.ZipFile(inputs.finite(path)) as packed:
            said = checked.from_json(packed.read(MANIFEST).decode())
            files = said["files"]
            if said["schema"] != SCHEMA:
                raise ValueError(f"schema {said['schema']!r}, expected {SCHEMA}")
            names = set(packed.namelist()) - {MANIFEST}
            wrong = [f"{name}: not in the manifest" for name in sorted(names - set(files))]
            wrong += [f"{name}: missing" for name in sorted(set(files) - names)]
            for name in sorted(names & set(files)):
                if not SAFE.fullmatch(name) or ".." in name or packed.getinfo(name).file_size > LARGEST:
                    raise ValueError(f"a file {name!r}")
                text = packed.read(name)
                if _sha256(text) != files[name]:
                    wrong.append(f"{name}: sha256 {_sha256(text)[:12]}, expected {str(files[name])[:12]}")
                target = place / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(text)
            plugins = [{key: one[key] for key in ("kind", "name", "origin", "version", "single", "source")}
                       for one in said["plugins"]]  # fmt: skip
            return Bundle(place, str(said["by"]), str(said["made"]), plugins, wrong)
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}", example, "ask for it again") from None


def label(folder: Path, methods: Sequence[str], facts: dict[str, Any]) -> None:
    """Keep in origins.json of a results folder where rows of these methods came from."""
    path = folder / ORIGINS
    known = origins(folder)
    path.write_text(to_json(known | dict.fromkeys(methods, facts), indent=2) + "\n", encoding="utf-8")


ORIGINS = "origins.json"


def origins(folder: Path) -> dict[str, dict[str, Any]]:
    """By method, who has made its rows and how far that was checked; none of what the authors ran themselves.

    Raises:
        UserError: the file is broken.
    """
    path = folder / ORIGINS
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if not all(isinstance(one, dict) for one in found.values()):
            raise ValueError("expected an object for each method")
        return found
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: {error}", "what `accept --write` has written", "restore the file") from None


def _sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
