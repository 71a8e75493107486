"""`hooke demo`: the main job on real data; the cache; an edit and what it reruns; a second worker; how far it scales; the service."""

from __future__ import annotations

import contextlib
import difflib
import json
import shlex
import shutil
import sys
from pathlib import Path

import click

from hooke.base.errors import HookeError, MissingExtra, UsageError
from hooke.base.formats import format_seconds
from hooke.cli.demo.demo_steps import (
    DemoCommand,
    Pass,
    compare_workers,
    run_pass,
    scale_features,
    serve_champion,
)
from hooke.cli.extras import extras
from hooke.cli.options import debug_option, json_option
from hooke.cli.screens import CommandSession
from hooke.cli.verbs.cache import explained
from hooke.project.folder import Project
from hooke.running.why import why

__all__ = ["demo"]

MAIN = "flights.py"
EDITED = "flight_models.py"
BEFORE = "return (probability * 10).floor().clip(0, 9).cast(pl.Int64)"
AFTER = "return (probability * 20).floor().clip(0, 19).cast(pl.Int64)"
EDIT = "20 buckets instead of 10"
PASSES = ("1. Run it", "2. Run it again: nothing has changed", f"3. Change one function: {EDIT}")
SCALING = "5. How far the features scale, whether that beats one plain Polars call, and what 100 times the data would take"
SERVING = "6. Serve the champion, by two replicas, three, and two again, while it is asked"

LEFT_BEHIND = frozenset({".hooke", "__pycache__", "mlflow.db", "mlflow.db.hooke-lock", "mlruns"})
"""What a demo leaves in its folder besides its files."""


@click.command()
@click.argument("folder", default="hooke-demo", type=click.Path(path_type=Path))
@click.option("--on", "place", default="local", metavar="PLACE", show_default=True, help="Where to run.")
@click.option(
    "--months",
    default=12,
    metavar="3..12",
    show_default=True,
    type=click.IntRange(3, 12),
    help="Fewer are quicker.",
)
@json_option
@debug_option
@click.pass_obj
def demo(session: CommandSession, *, folder: Path, place: str, months: int, as_json: bool) -> int:
    """Forecast which flights arrive late, on every departure from New York in 2013 (336,776 flights).

    Runs the pipeline of examples/flights in FOLDER, runs it again, changes one function and runs it once more. Then, on
    this machine: times three of the months by one worker and by two, measures how far the features scale and whether
    that beats one plain Polars call, and plans a hundred times the data. At last it serves the model and asks it for
    the last quarter's flights.
    """
    _check_extra()
    _prepare(folder)
    session.project = Project.find(folder)
    parameters = ["--months", str(months)] if months != 12 else []
    on = ["--on", place] if place != "local" else []
    command = ["run", str(folder / MAIN), *on, *parameters]
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        parts: list[Pass | DemoCommand] = [*_passes(command, folder, session.project)]
        if not parts[-1].code:
            click.secho(f"\n{SCALING}", bold=True)
            parts += scale_features(folder / MAIN, parameters)
        if not parts[-1].code:
            click.secho(f"\n{SERVING}", bold=True)
            parts += serve_champion(folder, months)
        if not parts[-1].code:
            edited = parts[len(PASSES) - 1]
            assert isinstance(edited, Pass)
            click.echo("\n" + "\n".join(_next(folder, edited.run)))
    if as_json:
        click.echo(json.dumps([done.facts() for done in parts], indent=2))
    return parts[-1].code


def _passes(command: list[str], folder: Path, project: Project) -> list[Pass]:
    """All passes, or as many as end well and the one that does not, told as they come."""
    passes: list[Pass] = []
    for title in PASSES:
        click.secho(f"\n{title}", bold=True)
        if len(passes) == 2:
            click.echo("\n".join(_edit(folder / EDITED)))
        passes.append(run_pass(command, project))
        if passes[-1].code:
            return passes
        _tell(passes)
    click.echo("\n" + "\n".join(_reran(project, passes[-1].run)))
    click.secho("\n4. Three of the months, by one worker and by two", bold=True)
    return passes + compare_workers(_files(), MAIN)


def _check_extra() -> None:
    needed = next((extra for extra in extras() if extra.name == "demo"), None)
    if needed is not None and needed.missing:
        raise MissingExtra(
            f"the demo needs {', '.join(needed.missing)}, which {'is' if len(needed.missing) == 1 else 'are'} not installed",
            fix=needed.command,
        )


def _files() -> list[Path]:
    """The example's modules: in the installed package, else in the source tree."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "demo_files" / "flights", package.parents[1] / "examples" / "flights"):
        if (folder / MAIN).is_file():
            return sorted(folder.glob("*.py"))
    raise HookeError(
        "the demo's files are not where they should be",
        where=str(package / "demo_files"),
        fix="install hooke again, or run examples/flights/flights.py of its source",
    )


def _prepare(folder: Path) -> None:
    """Fresh copies of the files in `folder`; what an earlier demo left there goes, anything else is not touched."""
    files = _files()
    if folder.exists():
        foreign = {path.name for path in folder.iterdir()} - LEFT_BEHIND - {file.name for file in files}
        if foreign:
            raise UsageError(
                f"the folder {folder} holds things that are not the demo's: {', '.join(sorted(foreign)[:5])}",
                fix="name another one: hooke demo FOLDER",
            )
        for left in (folder / name for name in LEFT_BEHIND):
            left.unlink() if left.is_file() else shutil.rmtree(left, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copy(file, folder)


def _tell(passes: list[Pass]) -> None:
    """What the last pass came to: the result of the first, and how the others differ from it."""
    first, last = passes[0], passes[-1]
    assert last.view is not None
    row = last.view.row(last.view.last_at)
    work = f"{format_seconds(last.work_s)} of work" if row.done else "no work"
    said = f"{row.done} of {row.items} calls ran: {work} in {format_seconds(last.wall_s)}"
    if last is first:
        click.echo(f"\n{first.output.rstrip()}\n\n{said}")
        return
    result = "the same result" if last.output == first.output else "another result"
    click.echo(
        f"{said}, instead of {format_seconds(first.work_s)} in {format_seconds(first.wall_s)}; {result}"
    )


def _edit(path: Path) -> list[str]:
    """Replace one line; returns the change as a diff."""
    old = path.read_text(encoding="utf-8")
    if old.count(BEFORE) != 1:
        raise HookeError(f"the demo's edit does not fit {path}", why=f"it should hold once: {BEFORE}")
    new = old.replace(BEFORE, AFTER)
    path.write_text(new, encoding="utf-8")
    lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=2))[3:]
    colours = {"+": "green", "-": "red"}
    return [str(path), *(click.style(f"  {line}", fg=colours.get(line[:1])) for line in lines)]


def _reran(project: Project, run: str) -> list[str]:
    whys = why(project.runs, run)
    ran = [each for each in whys if each.outcome not in ("cached", "not needed")]
    tasks = ", ".join(dict.fromkeys(each.task for each in whys if each not in ran))
    return [*explained(ran), f"not run again: {tasks}"]


def _next(folder: Path, edited: str) -> list[str]:
    where = f"--project {shlex.quote(str(folder))}"
    commands = {
        f"hooke cache why {edited} calibration {where}": "why a task ran after the edit",
        f"hooke show {where}": "what the service did",
        f"hooke runs {where}": "all runs and the study",
        f"hooke cache ls {where}": "what is stored",
        f"$EDITOR {folder / EDITED}": "edit something, then:",
        f"hooke run {folder / MAIN}": "see what it reruns",
    }
    width = max(map(len, commands))
    return ["next:", *(f"  {typed.ljust(width)}   {about}" for typed, about in commands.items())]
