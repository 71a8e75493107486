"""`hooke cache why`: which tasks ran, which were cached, and what changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from hooke.cli.naming import run_and_task
from hooke.cli.options import complete_run, in_project, json_option, the_project
from hooke.cli.screens import Session
from hooke.keys.explain import Change
from hooke.project.why import Cause, Why, roots
from hooke.project.why import why as explain_run

__all__ = ["explained", "why"]

MOST_DIFF_LINES = 24
MOST_CHANGES = 12
NOT_RUN = ("cached", "not needed")


@click.command(short_help="Say of each task whether it ran or was cached, and what changed.")
@click.argument("run", required=False, default="", shell_complete=complete_run)
@click.argument("task", required=False, default="")
@json_option
@in_project
@click.pass_obj
def why(session: Session, *, run: str, task: str, as_json: bool, project: Path | None) -> int:
    """Say of TASK in RUN (by default the last run) whether it was cached or ran, and what changed.

    Without TASK all tasks are explained. The run is compared with the newest earlier one in which the task had
    a result.
    """
    where = the_project(session, project)
    name, only = run_and_task(where, run, task, verb="cache why")
    whys = explain_run(where.runs, name)
    if as_json:
        chosen = [each for each in whys if only in ("", each.task)]
        click.echo(json.dumps([_facts(each, whys) for each in chosen], indent=2))
        return 0
    click.echo(f"run {name}")
    click.echo("\n".join(explained(whys, only=only)))
    return 0


def explained(whys: list[Why], *, only: str = "") -> Iterator[str]:
    """Lines that say, task by task, what ran and why; nodes of a task with the same story are told once."""
    said: set[str] = set()
    for task in dict.fromkeys(each.task for each in whys):
        if only not in ("", task):
            continue
        alike: dict[tuple[str, ...], list[Why]] = {}
        for each in (each for each in whys if each.task == task):
            alike.setdefault((each.outcome, *_story(each, whys, set())), []).append(each)
        for nodes in alike.values():
            yield _headline(task, nodes)
            yield from (f"    {line}" for line in _story(nodes[0], whys, said))
        if only:
            yield from _notes([each for each in whys if each.task == task])


def _headline(task: str, nodes: list[Why]) -> str:
    outcome = nodes[0].outcome
    colour = {"ran": "yellow", "partly cached": "yellow", "cached": "blue", "failed": "red"}.get(outcome)
    kind = "calls" if all(each.items == 1 for each in nodes) else "maps"
    calls = f", {len(nodes)} {kind}" if len(nodes) > 1 else ""
    items = _items(nodes)
    return f"{click.style(task, bold=True)}: {click.style(outcome, fg=colour)}{calls}{items}"


def _items(nodes: list[Why]) -> str:
    if all(each.items == 1 for each in nodes) or nodes[0].outcome == "not needed":
        return ""
    total = sum(each.items or 0 for each in nodes)
    if nodes[0].outcome != "partly cached":
        return f", {total} items"
    ranges = [_range(lo, hi) for each in nodes for lo, hi in each.ran]
    more = f" and {len(ranges) - 8} more ranges" if len(ranges) > 8 else ""
    count = sum(hi - lo for each in nodes for lo, hi in each.ran)
    return f": {count} of {total} items ran ({', '.join(ranges[:8])}{more})"


def _range(lo: int, hi: int) -> str:
    return str(lo) if hi - lo == 1 else f"{lo}..{hi - 1}"


def _story(each: Why, whys: list[Why], said: set[str]) -> tuple[str, ...]:
    """What is told of a node under its headline. A change that was told in full already is only named."""
    if each.outcome in NOT_RUN or not each.causes:
        return ()
    lines: list[str] = []
    if each.compared:
        lines.append(f"compared with run {each.compared}")
    for cause in each.causes[:MOST_CHANGES]:
        lines += _told(cause, said)
    if len(each.causes) > MOST_CHANGES:
        lines.append(f"and {len(each.causes) - MOST_CHANGES} more changes (--json)")
    own = {(each.task, cause.text) for cause in each.causes}
    for task, cause in roots(whys, each.node):
        if (task, cause.text) not in own:
            first, *rest = _told(cause, said)
            lines += [f"  in {task}: {first}", *(f"  {line}" for line in rest)]
    return tuple(lines)


def _told(cause: Cause, said: set[str]) -> list[str]:
    if cause.change is None or not cause.change.diff or cause.text in said:
        return [cause.text]
    said.add(cause.text)
    return [cause.text, *_diff(cause.change)]


def _diff(change: Change) -> list[str]:
    lines = [line for line in change.diff.splitlines() if not line.startswith("@@")]
    more = [f"    ... {len(lines) - MOST_DIFF_LINES} more lines"] if len(lines) > MOST_DIFF_LINES else []
    colours = {"+": "green", "-": "red"}
    return [f"    {click.style(line, fg=colours.get(line[:1]))}" for line in lines[:MOST_DIFF_LINES]] + more


def _notes(nodes: list[Why]) -> Iterator[str]:
    notes = dict.fromkeys(note for each in nodes for note in each.notes)
    yield from (f"    note: {note}" for note in notes)


def _facts(each: Why, whys: list[Why]) -> dict[str, object]:
    facts: dict[str, object] = msgspec.to_builtins(each)
    facts["roots"] = [msgspec.to_builtins(cause) | {"task": task} for task, cause in roots(whys, each.node)]
    return facts
