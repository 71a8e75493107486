"""`hooke demo`: an example on real data: a run, the cache, an edit, scaling, the service."""

from __future__ import annotations

import contextlib
import difflib
import json
import shlex
import shutil
import sys
from pathlib import Path

import click

from hooke.base.distributions import install_command
from hooke.base.errors import HookeError, MissingExtra, UsageError
from hooke.base.formats import format_seconds
from hooke.cli.demo import demo_steps
from hooke.cli.options import debug_option, json_option
from hooke.cli.screens import CommandSession
from hooke.cli.verbs.cache import explained
from hooke.cli.verbs.doctor import extras
from hooke.project.folder import Project
from hooke.project.settings import FILE
from hooke.running.why import why

__all__ = ["demo"]

MAIN = "flights.py"
EDITED = "flight_models.py"
BEFORE = "return (probability * 10).floor().clip(0, 9).cast(pl.Int64)"
AFTER = "return (probability * 20).floor().clip(0, 19).cast(pl.Int64)"
EDIT = "20 buckets instead of 10"
PASSES = ("1. Run it", "2. Run it again without changes", f"3. Change one function: {EDIT}")
SCALING = "4. How certain is the score? Measure how many workers pay for resampling it"
SERVING = "5. Serve the champion with two replicas, then three, then two, under load"

MONTHS = 6
"""With these, nothing is shorter than a second or longer than half a minute."""
FIXED_S, MONTH_S = 45.0, 20.0

LEFT_BEHIND = frozenset({".hooke", "__pycache__", "mlflow.db", "mlflow.db.hooke-lock", "mlruns", FILE})
"""Files that a demo creates in its folder."""


@click.command()
@click.argument("folder", default="hooke-demo", type=click.Path(path_type=Path))
@click.option("--on", "backend", default="local", metavar="BACKEND", show_default=True, help="The backend.")
@click.option(
    "--months",
    default=MONTHS,
    metavar="3..12",
    show_default=True,
    type=click.IntRange(3, 12),
    help="The months of 2013 to learn from; fewer are faster.",
)
@json_option
@debug_option
@click.pass_obj
def demo(session: CommandSession, *, folder: Path, backend: str, months: int, as_json: bool) -> int:
    """Forecast late arrivals for the departures from New York in the first half of 2013 (166,158 flights).

    The demo runs the pipeline of examples/flights in FOLDER, runs it again, changes one function, and runs it once more. Then
    it measures, on this machine, how many workers pay for resampling the score, and how long a hundred times as many samples
    take. Finally it serves the model and requests forecasts for the flights of the last month. With --months 12 it takes all
    336,776 flights of the year.
    """
    _check_extra()
    _prepare(folder)
    session.project = Project.find(folder)
    parameters = ["--months", str(months)]
    on = ["--on", backend] if backend != "local" else []
    command = ["run", str(folder / MAIN), *on, *parameters]
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        click.echo(_how_long(months))
        parts: list[demo_steps.Pass | demo_steps.DemoCommand] = [*_passes(command, folder, session.project)]
        if not parts[-1].code:
            click.secho(f"\n{SCALING}", bold=True)
            parts.append(demo_steps.measure_scaling(folder, parameters))
        if not parts[-1].code:
            click.secho(f"\n{SERVING}", bold=True)
            parts += demo_steps.serve_champion(folder, months)
        if not parts[-1].code:
            edited = parts[len(PASSES) - 1]
            assert isinstance(edited, demo_steps.Pass)
            click.echo("\n" + "\n".join(_next(folder, edited.run, parameters)))
    if as_json:
        click.echo(json.dumps([done.facts() for done in parts], indent=2))
    return parts[-1].code


def _passes(command: list[str], folder: Path, project: Project) -> list[demo_steps.Pass]:
    """All passes up to the first failed one, reported as they finish."""
    passes: list[demo_steps.Pass] = []
    for title in PASSES:
        click.secho(f"\n{title}", bold=True)
        if len(passes) == 2:
            click.echo("\n".join(_edit(folder / EDITED)))
        passes.append(demo_steps.run_pass(command, project))
        if passes[-1].code:
            return passes
        _tell(passes)
    click.echo("\n" + "\n".join(_reran(project, passes[-1].run)))
    return passes


def _how_long(months: int) -> str:
    """What is said first: how long the demo takes, and how it would take less."""
    return f"five steps, about {format_seconds(FIXED_S + MONTH_S * months)} on two free cores. Ctrl-C ends it"


def _check_extra() -> None:
    needed = next((extra for extra in extras() if extra.name == "demo"), None)
    if needed is not None and needed.missing:
        raise MissingExtra(
            f"the demo needs {', '.join(needed.missing)}, which {'is' if len(needed.missing) == 1 else 'are'} not installed",
            fix=needed.command,
        )


def _files() -> list[Path]:
    """The modules of the example, from the installed package or the source tree."""
    package = Path(__file__).resolve().parents[2]
    for folder in (package / "demo_files" / "flights", package.parents[1] / "examples" / "flights"):
        if (folder / MAIN).is_file():
            return sorted(folder.glob("*.py"))
    raise HookeError(
        "the files of the demo are missing",
        where=str(package / "demo_files"),
        fix=f"{install_command('demo')} --force-reinstall, or run examples/flights/flights.py from its source",
    )


def _prepare(folder: Path) -> None:
    """Copy the files into `folder`, without the remains of an earlier demo. Raises UsageError if it has other files."""
    files = _files()
    if folder.exists():
        foreign = {path.name for path in folder.iterdir()} - LEFT_BEHIND - {file.name for file in files}
        if foreign:
            raise UsageError(
                f"the folder {folder} has files that are not the demo's: {', '.join(sorted(foreign)[:5])}",
                fix="choose another folder: hooke demo FOLDER",
            )
        for left in (folder / name for name in LEFT_BEHIND):
            left.unlink() if left.is_file() else shutil.rmtree(left, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).touch()  # a project of its own, also inside of another
    for file in files:
        shutil.copy(file, folder)


def _tell(passes: list[demo_steps.Pass]) -> None:
    """The outcome of the last pass: the first result, or the comparison with it."""
    first, last = passes[0], passes[-1]
    assert last.view is not None
    row = last.view.row(last.view.last_at)
    work = f"{format_seconds(last.work_s)} of work" if row.done else "no work"
    said = f"{row.done} of {row.items} calls ran: {work} in {format_seconds(last.wall_s)}"
    if last is first:
        click.echo(f"\n{first.output.rstrip()}\n\n{said}")
        return
    result = "the same result" if last.output == first.output else "a different result"
    click.echo(
        f"{said}, instead of {format_seconds(first.work_s)} in {format_seconds(first.wall_s)}; {result}"
    )


def _edit(path: Path) -> list[str]:
    """Replace one line, and return the diff."""
    old = path.read_text(encoding="utf-8")
    if old.count(BEFORE) != 1:
        raise HookeError(
            f"the edit of the demo does not match {path}", why=f"the file must contain once: {BEFORE}"
        )
    new = old.replace(BEFORE, AFTER)
    path.write_text(new, encoding="utf-8")
    lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=2))[3:]
    colours = {"+": "green", "-": "red"}
    return [str(path), *(click.style(f"  {line}", fg=colours.get(line[:1])) for line in lines)]


def _reran(project: Project, run: str) -> list[str]:
    whys = why(project.runs, run)
    ran = [each for each in whys if each.outcome not in ("cached", "not needed")]
    tasks = ", ".join(dict.fromkeys(each.task for each in whys if each not in ran))
    return [*explained(ran), f"skipped or cached: {tasks}"]


def _next(folder: Path, edited: str, parameters: list[str]) -> list[str]:
    typed = shlex.join(parameters)
    where = f"--project {shlex.quote(str(folder))}"
    commands = {
        f"hooke cache why {edited} calibration {where}": "why a task ran after the edit",
        f"hooke curve resample {where}": "the measured scaling as a figure",
        f"hooke plan {folder / demo_steps.PIPELINE} {typed} --times resample=100": "its time and price on rented machines",
        f"hooke show {where}": "the history of the service",
        f"hooke runs {where}": "all runs and the study",
        f"hooke cache ls {where}": "the stored results",
        f"$EDITOR {folder / EDITED}": "edit something, then:",
        f"hooke run {folder / MAIN} {typed}": "rerun only what changed",
    }
    width = max(map(len, commands))
    return ["next:", *(f"  {typed.ljust(width)}   {about}" for typed, about in commands.items())]
