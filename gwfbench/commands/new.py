"""`gwfbench new`: a file to begin with."""

from __future__ import annotations

from pathlib import Path
from string import Template

import click

from gwfbench.commands._edge import say
from gwfbench.commands._options import PLACE, example
from gwfbench.errors import UserError, require

TEMPLATES = Path(__file__).parents[1] / "plugins" / "templates"
NEXT = {
    "method": "run --task {task} --method {name} --plugin {file}\ncheck method:{name} --plugin {file}",
    "task": "run --task {name} --method ula --plugin {file}\ncheck task:{name} --plugin {file}",
    "metric": "run --task gaussian --method ula --judge {name} --plugin {file}\nscore --metric {name} --plugin {file}",
}


@click.command(epilog=example("new method mine --uses samples"))
@click.argument("kind", type=click.Choice(["method", "task", "metric"]))
@click.argument("name")
@click.option(
    "--uses",
    type=click.Choice(["density", "samples"]),
    default="density",
    show_default=True,
    help="What a method knows of the target.",
)
@click.option("--in", "folder", type=PLACE, default=Path(), show_default=True, help="Folder of the file.")
def new(kind: str, name: str, uses: str, folder: Path) -> None:
    """Write NAME.py, a method, task or metric that runs, to be replaced line by line by yours."""
    require(
        name.isidentifier() and name == name.lower() and not name.startswith("_"),
        f"name '{name}'",
        "small letters, digits and underscores, as in a file's name",
        "for example my_flow",
    )
    taken = _taken(kind, name)
    require(not taken, f"{kind} '{name}': the name is taken", "a name of its own", "choose another")
    path = folder / f"{name}.py"
    words = name.split("_")
    text = Template((TEMPLATES / f"{kind}{f'_{uses}' if kind == 'method' else ''}.txt").read_text(encoding="utf-8"))
    made = text.substitute(
        name=name, cls="".join(word.capitalize() for word in words), title=" ".join(words).capitalize()
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(made)
    except FileExistsError:
        raise UserError(f"{path}: exists", "a new file", "choose another name, or --in another folder") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "a file that can be written", "name another folder") from None
    say(f"wrote {path}. It runs as it is:")
    task = "toy2d" if uses == "samples" else "gaussian"
    for line in NEXT[kind].format(name=name, file=path, task=task).split("\n"):
        say(f"  python -m gwfbench {line}")


def _taken(kind: str, name: str) -> bool:
    if kind == "metric":
        from gwfbench.metrics import known

        return name in known()
    from gwfbench.plugins import registry

    return name in registry.plugins("method" if kind == "method" else "task") or name in registry.CONTROLS
