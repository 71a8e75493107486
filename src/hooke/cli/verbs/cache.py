"""`hooke cache`: list, explain, remove and check stored results."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import msgspec

from hooke.base.errors import CorruptObject, MissingObject, UsageError
from hooke.base.formats import aligned, format_bytes, format_seconds
from hooke.base.observed import describe, is_secret
from hooke.base.ref import MadeFrom, Manifest, Observed
from hooke.base.units import parse_bytes
from hooke.cli.entry import Commands
from hooke.cli.options import complete_run, in_project, json_option, run_and_task
from hooke.cli.screens import EXIT_FAILED
from hooke.keys.fingerprint_parts import CodeChange
from hooke.pipeline.finished_results import StoredManifests
from hooke.project.folder import Project
from hooke.running.why import Cause, Why, dependents, roots
from hooke.running.why import why as explain_run
from hooke.store.entries import Entry
from hooke.store.store import Store

__all__ = ["cache", "explained", "why"]


COLUMNS = ("key", "task", "items", "results", "inputs", "size", "age", "saves", "run")
NUMBERS = (2, 3, 4, 5, 6, 7)
"""The columns that are numbers."""

MOST_RESULTS = 16
MOST_INPUTS = 20
"""Results of a key, and inputs of a result, that the text lists."""

_INPUT_WORDS = {
    "file": "file {}",
    "absent": "no file {}",
    "listing": "names of the files in {}/",
    "tree": "files in {}/",
    "variable": "variable {}",
    "wrote": "it wrote {}",
}


class _Cache(Commands):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The commands in their order of definition."""
        return ["ls", "why", "rm", "gc", "verify", "audit"]


@click.group(cls=_Cache)
def cache() -> None:
    """List, explain and remove stored results."""


@dataclass(slots=True, kw_only=True)
class _Result:
    """All entries of one recipe key: one, or the committed parts of a map, for each set of observed inputs."""

    key: str
    task: str
    run: str
    at: float
    items: int | None = None
    size: int = 0
    seconds: float = 0.0
    entries: list[Entry] = field(default_factory=list)

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.size += entry.ref.size
        self.seconds += entry.seconds
        if entry.items is not None:
            self.items = (self.items or 0) + entry.items
        if entry.at >= self.at:
            self.at, self.run = entry.at, entry.run

    def facts(self) -> dict[str, object]:
        """The result for `--json`, without what it was made from."""
        names = ("key", "task", "run", "at", "items", "size", "seconds")
        return {name: getattr(self, name) for name in names}


def _results(entries: Iterable[Entry]) -> list[_Result]:
    """All stored results, the newest first."""
    found: dict[str, _Result] = {}
    for entry in entries:
        made = _Result(key=entry.key, task=entry.task, run=entry.run, at=entry.at)
        found.setdefault(entry.key, made).add(entry)
    return sorted(found.values(), key=lambda result: -result.at)


# --- `hooke cache ls`.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """Entries of a key that were made from the same observed inputs. `deep` has all of these; None if the list is lost.

    `differing` are kind and name of those that are others in other results of the key.
    """

    entries: list[Entry]
    own: Manifest
    deep: Manifest | None
    changed: Observed | None
    """The first input that is no longer the same, if that was asked for."""
    differing: frozenset[tuple[str, str]] = frozenset()

    @property
    def inputs(self) -> list[Observed]:
        """What its task, and those before it, read."""
        return [each for each in self.deep or () if each.kind != "wrote"]

    @property
    def names(self) -> set[tuple[str, str]]:
        """Kind and name of each."""
        return {(each.kind, each.name) for each in self.inputs}

    def is_own(self, observed: Observed) -> bool:
        """Whether the task itself read it. Another may have, too, at another time."""
        parts = (observed.kind, observed.name, observed.digest)
        return any((each.kind, each.name, each.digest) == parts for each in self.own)

    @property
    def newest(self) -> Entry:
        return max(self.entries, key=lambda entry: entry.at)

    @property
    def items(self) -> int | None:
        """How many items of a map; None for a call."""
        counts = [entry.items for entry in self.entries if entry.items is not None]
        return sum(counts) if counts else None

    def facts(self) -> dict[str, object]:
        """For `--json`: names and what they are. Of files there are digests; of variables there is nothing but the name."""
        return {
            "run": self.newest.run,
            "at": self.newest.at,
            "items": self.items,
            "unchanged": self.deep is not None and self.changed is None,
            "inputs": None if self.deep is None else [self._input_facts(each) for each in self.deep],
        }

    def _input_facts(self, each: Observed) -> dict[str, object]:
        facts: dict[str, object] = {
            "kind": each.kind,
            "name": each.name,
            "own": self.is_own(each),
            "differs": (each.kind, each.name) in self.differing,
        }
        return facts if each.kind == "variable" else facts | {"digest": each.digest}

    def lines(self, root: Path, now: float) -> Iterator[str]:
        """The text under a result's line in the table."""
        items = "" if self.items is None else f", {self.items} item{'s' * (self.items != 1)}"
        head = f"    {format_seconds(max(now - self.newest.at, 0.0))} ago, run {self.newest.run}{items}: "
        if self.deep is None:
            yield head + "the list of its inputs is lost, so it does not count"
            return
        if not self.deep:
            yield head + "read nothing but what its key names"
            return
        yield head + (describe(self.changed, root=root) if self.changed else "its inputs are as they were")
        for each in self.deep[:MOST_INPUTS]:
            yield f"      {_INPUT_WORDS[each.kind].format(each.name.rstrip('/'))}{self._remarks(each)}"
        if len(self.deep) > MOST_INPUTS:
            yield f"      and {len(self.deep) - MOST_INPUTS} more (--json)"

    def _remarks(self, each: Observed) -> str:
        remarks: list[str] = []
        if each.kind == "variable" and not each.digest:
            remarks.append("its value is kept nowhere" if is_secret(each.name) else "not set")
        elif each.kind in ("file", "tree"):
            remarks.append(each.digest[:8])
        if (each.kind, each.name) in self.differing:
            remarks.append("differs")
        if not self.is_own(each):
            remarks.append("by a task before it")
        return f" ({', '.join(remarks)})" if remarks else ""


def _made(result: _Result, manifests: StoredManifests, *, look: bool) -> list[_Made]:
    """The entries of a key by what they were made from, the newest first. With `look`, compared with the inputs as they are now."""
    alike: dict[str, list[Entry]] = {}
    for entry in result.entries:
        alike.setdefault(entry.made_from.id if entry.made_from is not None else "", []).append(entry)
    found = [_made_alike(entries, manifests, look=look) for entries in alike.values()]
    if result.items is None:  # items of a map have inputs of their own
        differing = _differing(found)
        found = [replace(made, differing=differing) for made in found]
    return sorted(found, key=lambda made: -made.newest.at)


def _differing(found: list[_Made]) -> frozenset[tuple[str, str]]:
    """Kind and name of the inputs that some of these results were not made from, or with another content."""
    contents: dict[tuple[str, str], list[tuple[str, ...]]] = {}
    for made in found:
        for each in made.inputs:
            contents.setdefault((each.kind, each.name), []).append((each.digest, *each.own))
    return frozenset(name for name, each in contents.items() if len(set(each)) > 1 or len(each) < len(found))


def _made_alike(entries: list[Entry], manifests: StoredManifests, *, look: bool) -> _Made:
    made_from = entries[0].made_from or MadeFrom()
    try:
        own, deep = manifests.get(made_from.own), manifests.get(made_from.deep)
    except (MissingObject, CorruptObject):
        return _Made(entries=entries, own=(), deep=None, changed=None)
    changed = manifests.first_changed(made_from.deep) if look else None
    return _Made(entries=entries, own=own, deep=deep, changed=changed)


@cache.command("ls", short_help="List stored results: size, age, seconds saved, inputs.")
@click.argument("keys", nargs=-1, metavar="[KEY ...]")
@click.option("--task", metavar="NAME", help="Only results of this task.")
@click.option(
    "--inputs", is_flag=True, help="Name the files and variables that each result was made from, too."
)
@click.option(
    "--limit", default=50, show_default=True, metavar="N", type=click.IntRange(min=1), help="Show at most N."
)
@json_option
@in_project
def list_results(
    *, keys: tuple[str, ...], task: str | None, inputs: bool, limit: int, as_json: bool, project: Project
) -> int:
    """List stored results, the newest first: size, age, seconds saved, and how many files and variables they were made from.

    A key has several results if its task, or one before it, read files or variables that were others then: put them back, and
    the old result counts again. With KEY (a prefix suffices), or with --inputs, these are named, with the beginning of a file's
    digest; of a variable the name alone. Those that are others in other results of the key differ.
    """
    store = project.store()
    results = [result for result in _results(store.entries()) if task in (None, result.task)]
    if keys:
        results = [_by_prefix(results, key) for key in keys]
    manifests = StoredManifests(store, project.inputs_now())
    shown = results if as_json else results[:limit]
    named = inputs or bool(keys)
    made = {result.key: _made(result, manifests, look=named) for result in shown}
    if as_json:
        listed = [_facts(result, made[result.key], named=named) for result in results]
        click.echo(json.dumps(listed, indent=2))
        return 0
    if not results:
        click.echo(f"no results in {store.place}", err=True)
        return 0
    click.echo("\n".join(_table(shown, made, project.root, named=named)))
    if len(results) > limit:
        click.echo(f"and {len(results) - limit} older ones: --limit {len(results)}", err=True)
    usage = store.usage()
    saved = sum(result.seconds for result in results)
    click.echo(
        f"{len(results)} result{'s save' if len(results) != 1 else ' saves'} {format_seconds(saved)}; the store holds {format_bytes(usage.bytes)}"
        + (f", {format_bytes(usage.unreferenced)} of it unreferenced" if usage.unreferenced else "")
        + (f", and {format_bytes(usage.checkpoints)} of checkpoints" if usage.checkpoints else ""),
        err=True,
    )
    return 0


def _facts(result: _Result, made: list[_Made], *, named: bool) -> dict[str, object]:
    several = None if result.items is not None else len(made)  # an item of a map has a result in some of them
    facts = result.facts() | {"results": several, "inputs": _inputs(made)}
    return facts | {"made_from": [each.facts() for each in made]} if named else facts


def _inputs(made: list[_Made]) -> int:
    """How many files, folders and variables the results of a key were made from."""
    return len(set().union(*(alike.names for alike in made)))


def _table(
    results: list[_Result], made: Mapping[str, list[_Made]], root: Path, *, named: bool
) -> Iterator[str]:
    now = time.time()
    rows = [_cells(result, made[result.key], now) for result in results]
    header, *lines = aligned(COLUMNS, rows, right=NUMBERS)
    yield header
    for result, line in zip(results, lines, strict=True):
        yield line
        if named:
            several = made[result.key]
            for each in several[:MOST_RESULTS]:
                yield from each.lines(root, now)
            if len(several) > MOST_RESULTS:
                yield f"    and {len(several) - MOST_RESULTS} more (--json)"


def _cells(result: _Result, made: list[_Made], now: float) -> tuple[str, ...]:
    return (
        result.key[:12],
        result.task,
        "" if result.items is None else str(result.items),
        "" if result.items is not None else str(len(made)),
        str(_inputs(made) or ""),
        format_bytes(result.size),
        format_seconds(max(now - result.at, 0.0)),
        format_seconds(result.seconds),
        result.run,
    )


@cache.command("rm", short_help="Remove results by key or by task.")
@click.argument("keys", nargs=-1, metavar="[KEY ...]")
@click.option("--task", metavar="NAME", help="All results of this task.")
@click.option(
    "-r",
    "--recursive",
    is_flag=True,
    help="Remove the results that were made from them, too, without asking.",
)
@click.option("--checkpoints", is_flag=True, help="Remove only checkpoint folders; results stay.")
@json_option
@in_project
def remove(
    *,
    keys: tuple[str, ...],
    task: str | None,
    recursive: bool,
    checkpoints: bool,
    as_json: bool,
    project: Project,
) -> int:
    """Remove results by KEY (a prefix suffices) or by --task, with their checkpoint folders. The next run computes them again.

    Results that were made from them, as the journals of this project tell, have to go, too: while such a result is stored, a
    run needs nothing that it was made from. On a terminal the command lists them and asks.

    `hooke cache gc` then frees their bytes.
    """
    if not keys and task is None:
        raise UsageError("no results selected", fix="pass a KEY of `hooke cache ls`, or --task NAME")
    store = project.store()
    if checkpoints:
        return _remove_checkpoints(store, keys, task, as_json=as_json)
    results = _results(store.entries())
    chosen = [result for result in results if result.task == task]
    if task is not None and not chosen:
        tasks = ", ".join(sorted({result.task for result in results})) or "none"
        raise UsageError(f"the store has no results of a task {task!r}", fix=f"tasks with results: {tasks}")
    chosen += [_by_prefix(results, key) for key in keys]
    made_from = dependents(project.runs, {result.key for result in chosen})
    below = [result for result in results if result.key in made_from]
    if below and not recursive:
        _ask(below, chosen, asks=sys.stdin.isatty() and not as_json)
    chosen += below
    for result in chosen:
        store.remove(result.key)
    if as_json:
        click.echo(json.dumps([result.facts() for result in chosen], indent=2))
        return 0
    count = f"{len(chosen)} result{'s' * (len(chosen) != 1)}"
    click.echo(f"removed {count}, {format_seconds(sum(result.seconds for result in chosen))} of work")
    return 0


def _remove_checkpoints(store: Store, keys: tuple[str, ...], task: str | None, *, as_json: bool) -> int:
    """Remove the checkpoint folders of a task, or of keys of calls, items and maps. Raises UsageError if there are none."""
    found = store.checkpoints.all_records()
    chosen = [
        record.key
        for record in found
        if record.owner.task == task
        or any(each.startswith(key) for key in keys for each in (record.key, record.owner.recipe))
    ]
    if not chosen:
        tasks = ", ".join(sorted({record.owner.task for record in found})) or "none"
        raise UsageError("no such checkpoint folder", fix=f"tasks with checkpoint folders: {tasks}")
    removed = store.checkpoints.remove(chosen)
    if as_json:
        click.echo(json.dumps({"checkpoints": removed}, indent=2))
        return 0
    in_use = f"; {len(chosen) - removed} in use" if removed < len(chosen) else ""
    click.echo(f"removed {removed} checkpoint folder{'s' * (removed != 1)}{in_use}")
    return 0


def _ask(below: list[_Result], chosen: list[_Result], *, asks: bool) -> None:
    """Ask whether these go, too. Raises UsageError where nobody can answer, click.Abort for a no."""
    tasks = Counter(result.task for result in below)
    listed = ", ".join(f"{count} of {name}" for name, count in sorted(tasks.items()))
    what = f"results were made from the chosen {len(chosen)}: {listed}"
    if not asks:
        raise UsageError(
            what,
            why="while these are stored, a run does not need what they were made from",
            fix="add -r to remove them, too",
        )
    click.echo(what, err=True)
    click.confirm("remove them, too?", abort=True, err=True)


def _by_prefix(results: list[_Result], key: str) -> _Result:
    fitting = [result for result in results if result.key.startswith(key)]
    if len(fitting) != 1:
        what = f"{len(fitting)} keys begin" if fitting else "no key begins"
        raise UsageError(f"{what} with {key!r}", next="hooke cache ls")
    return fitting[0]


@cache.command("gc", short_help="Evict results until the store is below a size.")
@click.option(
    "--max", "--max-bytes", "most", metavar="SIZE", help="Such as 10GiB.  [default: max_bytes in hooke.toml]"
)
@json_option
@in_project
def collect(*, most: str | None, as_json: bool, project: Project) -> int:
    """Evict results until the store is at most SIZE, those with the least work per byte first.

    Results that a live run may need stay. Checkpoint folders go if their result is stored (unless the task is declared with
    keep_checkpoints=True), or if they have no result and nobody has used them for 30 days.
    """
    size = parse_bytes(most, name="--max") if most is not None else project.settings.store.max_bytes
    if size is None:
        raise UsageError(
            "missing maximum size of the store",
            fix="pass --max 10GiB, or set max_bytes under [store] in hooke.toml",
        )
    store = project.store()
    folders = store.clear_checkpoints(abandoned=True)
    report = store.gc(size)
    if as_json:
        click.echo(json.dumps(_report(report) | {"checkpoints": folders}, indent=2))
        return 0
    if folders:
        click.echo(f"  {folders} checkpoint folder{'s' * (folders != 1)} that nobody needs")
    for gone in report.evicted[:20]:
        click.echo(f"  {', '.join(gone.tasks) or '-'}: {gone.why}")
    if len(report.evicted) > 20:
        click.echo(f"  and {len(report.evicted) - 20} more")
    click.echo(f"the store shrank from {format_bytes(report.before)} to {format_bytes(report.after)}")
    if report.after > size:
        live = f": {', '.join(report.live)}" if report.live else ""
        click.echo(f"the rest stays, because live runs may need it{live}", err=True)
    return 0


def _report(report: Any) -> dict[str, Any]:
    evicted = [{"size": gone.size, "tasks": list(gone.tasks), "why": gone.why} for gone in report.evicted]
    numbers = {name: getattr(report, name) for name in ("before", "after", "spared")}
    return numbers | {"live": list(report.live), "evicted": evicted}


@cache.command("verify", short_help="Read the whole store, and report damage.")
@click.option("--remove", is_flag=True, help="Set damaged objects aside, so that they are computed again.")
@json_option
@in_project
def check(*, remove: bool, as_json: bool, project: Project) -> int:
    """Read the whole store, and report damage. Exit code 1 if damage remains."""
    report = project.store().verify(remove=remove)
    damaged = [{"name": each.name, "why": each.why} for each in report.damaged]
    if as_json:
        facts = {"objects": report.objects, "records": report.records, "damaged": damaged, "removed": remove}
        click.echo(json.dumps(facts, indent=2))
    else:
        for each in damaged:
            click.echo(f"  {each['name']}: {each['why']}")
        state = f"{len(damaged)} damaged" + (", set aside" if remove and damaged else "")
        click.echo(
            f"read {report.objects} objects and {report.records} records: {state if damaged else 'all intact'}"
        )
        if damaged and not remove:
            click.echo("next: hooke cache verify --remove", err=True)
    return EXIT_FAILED if damaged and not remove else 0


@cache.command("audit", short_help="Compute a random sample of the results again, and compare.")
@click.option(
    "--sample",
    default=20,
    show_default=True,
    metavar="N",
    type=click.IntRange(min=1),
    help="How many results to compute again; of a map, one item counts as one.",
)
@click.option("--seed", type=int, metavar="S", help="Choose the same sample again.  [default: by chance]")
@click.option("--task", default="", metavar="NAME", help="Only results of this task.")
@json_option
@in_project
def audit_results(*, sample: int, seed: int | None, task: str, as_json: bool, project: Project) -> int:
    """Compute N stored results again, chosen at random, in fresh workers, and compare them by content.

    Says which share differs, with its 95 % interval, and what may be the cause of each difference: unseeded random numbers,
    the clock, another environment, an input that changed. The store stays as it is, and so do files that are results.

    Exit code 1 if any result differs.
    """
    from hooke.running.replay import audit  # NumPy takes a tenth of a second

    report = audit(project, sample=sample, seed=seed, task=task, say=lambda line: click.echo(line, err=True))
    if as_json:
        low, high = report.interval
        facts = msgspec.to_builtins(report) | {"differ": len(report.differing), "interval": [low, high]}
        click.echo(json.dumps(facts, indent=2))
    else:
        click.echo(str(report))
    return EXIT_FAILED if report.differing else 0


# --- `hooke cache why`.

MOST_DIFF_LINES = 24
MOST_CHANGES = 12
NOT_RUN = ("cached", "not needed")


@cache.command(short_help="Explain why each task ran or was cached.")
@click.argument("run", required=False, default="", shell_complete=complete_run)
@click.argument("task", required=False, default="")
@json_option
@in_project
def why(*, run: str, task: str, as_json: bool, project: Project) -> int:
    """Explain why TASK of RUN (by default the last run) ran or was cached, and what changed.

    Without TASK, explain all tasks. The run is compared with the newest earlier run in which the task has a result.
    """
    name, only = run_and_task(project, run, task, verb="cache why")
    whys = explain_run(project.runs, name)
    if as_json:
        chosen = [each for each in whys if only in ("", each.task)]
        click.echo(json.dumps([_why_facts(each, whys) for each in chosen], indent=2))
        return 0
    click.echo(f"run {name}")
    click.echo("\n".join(explained(whys, only=only)))
    return 0


def explained(whys: list[Why], *, only: str = "") -> Iterator[str]:
    """The explanation, task by task; nodes of a task with the same explanation appear once."""
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
            yield from _unsettled(nodes)
        if only:
            yield from _notes([each for each in whys if each.task == task])


def _unsettled(nodes: list[Why]) -> Iterator[str]:
    for reason in dict.fromkeys(each.unsettled for each in nodes if each.unsettled):
        yield f"    its result counts in this run only ({reason})"


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
    """The details of a node. A change that was explained before is only named."""
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


def _diff(change: CodeChange) -> list[str]:
    lines = [line for line in change.diff.splitlines() if not line.startswith("@@")]
    more = [f"    ... {len(lines) - MOST_DIFF_LINES} more lines"] if len(lines) > MOST_DIFF_LINES else []
    colours = {"+": "green", "-": "red"}
    return [f"    {click.style(line, fg=colours.get(line[:1]))}" for line in lines[:MOST_DIFF_LINES]] + more


def _notes(nodes: list[Why]) -> Iterator[str]:
    notes = dict.fromkeys(note for each in nodes for note in each.notes)
    yield from (f"    note: {note}" for note in notes)


def _why_facts(each: Why, whys: list[Why]) -> dict[str, object]:
    facts: dict[str, object] = msgspec.to_builtins(each)
    facts["roots"] = [msgspec.to_builtins(cause) | {"task": task} for task, cause in roots(whys, each.node)]
    return facts
