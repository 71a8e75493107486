"""Plays a random program beside plain Python: edits, files, evictions, kills, resumes and second drivers between its runs.

After each run three things are checked: its answer is that of plain Python; what ran is what had to run, and nothing else;
and `cache why` explains each task that ran.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.fuzzing.choices import Choices
from tests.support.fuzzing.model import (
    Expected,
    Signed,
    Stored,
    Truth,
    expected,
    forget,
    plain,
    signed,
)
from tests.support.fuzzing.programs import (
    LIB,
    MAIN,
    VALUES,
    WITH_BUG,
    Definition,
    Program,
    TaskDefinition,
    draw_program,
)

from hooke.base.errors import HookeError
from hooke.base.ref import Ref
from hooke.journal.events import AttemptFailed, AttemptFinished, Event, MapExpanded, NodePlanned, RunStarted
from hooke.journal.run_view import RunView
from hooke.keys.fingerprint_parts import expansion_key
from hooke.project.folder import Project
from hooke.project.pipeline_file import load_entry
from hooke.running.driver import RunOrder, prepare
from hooke.running.resume import resume
from hooke.running.run import Run
from hooke.running.why import why

__all__ = ["Fault", "Played", "play"]

TOML = '[journal]\ndurable = "none"\n\n[tracking]\nsystem_metrics_s = 0\n'


class Fault(AssertionError):
    """What the fuzzer found: `kind` is wrong answer, stale, needless, unexplained or error."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(f"{kind}: {what}")
        self.kind = kind


@dataclass(slots=True)
class Played:
    """What was played: its steps in words, and how much ran."""

    choices: list[int] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    runs: int = 0
    ran: int = 0
    cached: int = 0
    program: Program | None = None
    fault: Fault | None = None

    def told(self) -> str:
        """The program and its steps, for a person who has to find the fault."""
        assert self.program is not None
        files = {
            name: text
            for name, text in self.program.sources().items()
            if name != f"{LIB}.py" and ("def " in text or " = " in text)
        }
        shown = "\n".join(f"# --- {name}\n{text}" for name, text in files.items())
        steps = "\n".join(f"  {at}. {step}" for at, step in enumerate(self.steps, 1))
        return f"{self.fault}\n\nsteps:\n{steps}\n\nthe program at the end:\n{shown}"


def play(choices: Choices, folder: Path, *, forks: bool = True) -> Played:
    """Play one program in an empty folder. What went wrong is in `fault`."""
    played = Played()
    with _clean(folder):
        stage = _Stage(choices, folder, played, forks=forks)
        try:
            stage.play()
        except Fault as fault:
            played.fault = fault
    played.choices = choices.taken
    return played


@contextmanager
def _clean(folder: Path) -> Iterator[None]:
    """This process as it was: module path, modules, working directory, variables."""
    path, writes, where = list(sys.path), sys.dont_write_bytecode, Path.cwd()
    sys.dont_write_bytecode = True
    os.chdir(folder)
    try:
        yield
    finally:
        forget()
        sys.path[:], sys.dont_write_bytecode = path, writes
        os.chdir(where)
        os.environ.pop("FUZZ_SEEN", None)


# --- Playing.


@dataclass(slots=True)
class _Stage:
    choices: Choices
    folder: Path
    played: Played
    forks: bool
    observed: bool = False
    """Whether tasks read what they do not declare."""
    program: Program = field(default_factory=Program)
    stored: Stored = field(default_factory=Stored)
    changed: list[str] = field(default_factory=list)
    """Words for the definitions and inputs that changed since the last run."""
    unfinished: str = ""
    """A run that failed or whose driver died, and can be resumed."""
    written: dict[str, str] = field(default_factory=dict)
    journals: dict[str, dict[tuple[str, str], Ref]] = field(default_factory=dict)
    """Run -> what its journal has: of a node, of an item, where."""

    def play(self) -> None:
        self.observed = bool(self.choices.below(2))
        self.program = self.played.program = draw_program(self.choices, observed=self.observed)
        (self.folder / "hooke.toml").write_text(TOML)
        self._write()
        self._say("run")
        self._run()
        for _ in range(1 + self.choices.below(6)):
            self.choices.pick(self._steps())()

    def _say(self, what: str) -> None:
        self.played.steps.append(what)

    def _write(self) -> None:
        os.environ["FUZZ_SEEN"] = self.program.variable
        for name in [
            name for name in self.written if name.endswith(".txt") and name not in self.program.files
        ]:
            (self.folder / name).unlink()
            del self.written[name]
        for name, text in (self.program.sources() | self.program.files).items():
            if self.written.get(name) != text:
                path = self.folder / name
                path.parent.mkdir(exist_ok=True)
                path.write_text(text)
                self.written[name] = text

    @property
    def _project(self) -> Project:
        return Project.find(self.folder)

    # -- steps -------------------------------------------------------------------------------------

    def _steps(self) -> list[Callable[[], None]]:
        steps: list[Callable[[], None]] = [
            self._again,
            self._edit,
            self._edit,
            self._cosmetic,
            self._file,
            self._parameter,
            self._evict,
            self._evict_all,
            self._lose,
            self._bug,
        ]
        if self.observed:
            steps += [self._seen, self._seen, self._seen]
        if self.forks:
            steps += [self._kill, self._two_drivers]
        return steps

    def _again(self) -> None:
        self._say("run again")
        self._run()

    def _target(self) -> Definition | TaskDefinition:
        """What an edit changes: mostly something that a task reaches."""
        program = self.program
        reached = program.reached([name for each in program.tasks.values() for name in each.uses])
        if self.choices.rarely(5):
            reached = set(program.definitions)
        return self.choices.pick(
            [*(program.definitions[name] for name in sorted(reached)), *program.tasks.values()]
        )

    def _edit(self) -> None:
        """Change a number of a definition, a task or the pipeline; or back to what it was."""
        each = self._target()
        name = self.choices.pick(("a", "b"))
        setattr(each, name, 1 + (getattr(each, name) + self.choices.below(3)) % 4)
        self._say(f"edit {each.name}: {name} = {getattr(each, name)}; run")
        self._run()

    def _cosmetic(self) -> None:
        """What cannot matter: comments, blank lines, docstrings, options, an unused definition, a file's time."""
        options = [*self.program.definitions.values(), *self.program.tasks.values()]
        each = self.choices.pick(options)
        what = self.choices.pick(("comment", "doc", "retries", "unused", "touch"))
        if what == "retries":
            each = self.choices.pick(list(self.program.tasks.values()))
            each.retries = 1 - each.retries
        elif what == "unused":
            (self.folder / f"unused{self.choices.below(3)}.py").write_text("UNUSED = 1\n")
        elif what == "touch":
            for path in self.folder.glob("*.*"):
                os.utime(path, (1_700_000_000 + self.choices.below(5), 1_700_000_000))
        else:
            setattr(each, what, getattr(each, what) + 1)
        self._say(f"{what} of {each.name}; run")
        self._run()

    def _file(self) -> None:
        name = f"data{self.choices.below(2)}.txt"
        self.program.files[name] = str(self.choices.below(4))
        self._say(f"write {self.program.files[name]} to {name}; run")
        self._run()

    def _seen(self) -> None:
        """Change what tasks read in passing, or put it back."""
        files = self.program.files
        what = self.choices.pick(("seen.txt", "maybe.txt", "listed/b.txt", "variable"))
        if what == "variable":
            self.program.variable = self.choices.pick(("one", "two", "three"))
            self._say(f"FUZZ_SEEN = {self.program.variable}; run")
        elif what == "seen.txt":
            files[what] = str(self.choices.below(3))
            self._say(f"write {files[what]} to {what}; run")
        elif files.pop(what, None) is None:
            files[what] = ""
            self._say(f"make {what}; run")
        else:
            self._say(f"remove {what}; run")
        self._run()

    def _parameter(self) -> None:
        self.program.parameter = self.choices.below(4)
        self._say(f"p = {self.program.parameter}; run")
        self._run()

    def _evict(self) -> None:
        """Remove one result, or the items of one map, or a list."""
        store = self._project.store()
        keys = sorted(
            {entry.key for entry in store.entries()} & self.stored.keys.keys(),
            key=lambda key: self.stored.keys[key][-1],
        )
        if keys:
            key = self.choices.pick(keys)
            store.remove(key)
            self._gone(key)
        self._say("remove one result; run")
        self._run()

    def _gone(self, key: str) -> None:
        for sign in self.stored.keys[key]:
            self.stored.lists.discard(sign.removeprefix("list "))
            self.stored.unsure.discard(sign)
            for item in self.stored.recipes.get(sign, {sign}):
                self.stored.results.pop(item, None)
                self.stored.unsure.discard(item)

    def _evict_all(self) -> None:
        self._project.store().gc(0)
        self.stored.results.clear()
        self.stored.lists.clear()
        self.stored.unsure.clear()
        self._say("gc to 0 bytes; run")
        self._run()

    def _lose(self) -> None:
        """Remove one object's file, as a disk does."""
        objects = sorted((self.folder / ".hooke" / "store" / "objects").glob("*/*"))
        if objects:
            path = self.choices.pick(objects)
            path.unlink()
            for sign in [sign for sign, where in self.stored.results.items() if where == path.name]:
                del self.stored.results[sign]
        self._say("lose one object; run")
        self._run()

    def _bug(self) -> None:
        """A bug in a definition, a run that may fail, and the run after it is fixed: a new one, or the same one resumed."""
        early = [
            name for each in self.program.definitions.values() if each.kind in VALUES for name in each.uses
        ]
        early = self.program.reached(early)  # a bug in these is one of the import
        options = [
            each
            for name, each in self.program.definitions.items()
            if each.kind in WITH_BUG and name not in early
        ]
        if not options:
            self._again()
            return
        each = self.choices.pick(options)
        each.bug = True
        self._say(f"bug in {each.name}; run")
        self._run()
        each.bug = False
        resumed = self.unfinished if self.choices.below(2) else ""
        self._say(f"fix {each.name}; {'resume' if resumed else 'run'}")
        self._run(resumed=resumed)

    def _kill(self) -> None:
        """Kill the driver after some event, perhaps edit, and resume or run."""
        words = ""
        if self.choices.below(2):
            each = self._target()
            each.a = 1 + each.a % 4
            words = f"edit {each.name}: a = {each.a}; "
        at = 3 + self.choices.below(40)
        self._say(f"{words}run, and kill the driver at event {at}")
        self._write()
        truth = plain(self.program, self.folder)
        before = set(self._project.runs.names())
        code = _forked(lambda: self._drive_until(at))
        made = [name for name in self._project.runs.names() if name not in before]
        if code not in (0, 9):
            raise Fault("error", f"the driver ended with {code}")
        if made:
            self._note(truth, made[0], killed=True)
        if self.choices.below(2) and made:
            self._say("resume")
            self._run(resumed=made[0])
        else:
            self._say("run")
            self._run()

    def _drive_until(self, at: int) -> None:
        seen = 0

        def observe(_event: Event) -> None:
            nonlocal seen
            seen += 1
            if seen == at:
                os._exit(9)

        self._drive(observers=(observe,))

    def _two_drivers(self) -> None:
        """Two drivers at once, after an edit: each result is computed by one of them."""
        each = self._target()
        each.a = 1 + each.a % 4
        self._say(f"edit {each.name}: a = {each.a}; two drivers at once")
        self._write()
        before = set(self._project.runs.names())
        truth = plain(self.program, self.folder)
        children = [_fork(self._drive) for _ in range(2)]
        codes = [_wait(child) for child in children]
        made = [name for name in self._project.runs.names() if name not in before]
        if any(code for code in codes) or len(made) != 2:
            raise Fault("error", f"two drivers ended with {codes}")
        must = {name: self._expected(truth, name) for name in made}
        ran = Counter[str]()
        for name in made:
            self._check_answer(truth, name)
            ran += self._ran(truth, name)
        self._check_ran(ran, [must[name] for name in made], truth, made)
        for name in made:
            self._note(truth, name)

    # -- one run -----------------------------------------------------------------------------------

    def _drive(self, *, resumed: str = "", observers: tuple[Callable[[Event], None], ...] = ()) -> str:
        forget()
        try:
            if resumed:
                driver = resume(self._project, resumed, observers=observers)
            else:
                pipeline, _ = load_entry(str(self.folder / f"{MAIN}.py"))
                order = RunOrder(pipeline=pipeline, on="serial", observers=observers)
                driver = prepare(order, self._project)
            if driver is None:  # it was killed when it had finished
                return ""
            driver.drive()
        except Exception as error:
            raise Fault("error", f"{type(error).__name__}: {error}") from error
        return driver.run

    def _run(self, *, resumed: str = "") -> None:
        self._write()
        truth = plain(self.program, self.folder)
        run = self._drive(resumed=resumed)
        if not run:
            self._check_answer(truth, resumed)
            return
        self.played.runs += 1
        self._check_answer(truth, run)
        want = self._expected(truth, run)
        ran = self._ran(truth, run)
        self.played.ran += ran.total()
        self._check_ran(ran, [want], truth, [run])
        self._check_why(run)
        self._note(truth, run)
        self.unfinished = run if truth.error else ""

    def _check_answer(self, truth: Truth, run: str) -> None:
        handle = Run(self._project, run)
        if truth.error:
            if handle.status != "failed":
                raise Fault(
                    "wrong answer", f"run {run} {handle.status}, and plain Python raises {truth.error!r}"
                )
            return
        try:
            answer = handle.result()
        except HookeError as error:
            raise Fault("error", f"run {run} {handle.status}: {error}") from error
        if repr(answer) != repr(truth.answer):
            raise Fault("wrong answer", f"{_short(answer)}, and plain Python gives {_short(truth.answer)}")

    def _expected(self, truth: Truth, run: str) -> Expected:
        known = {
            each
            for each, ref in self.journals.get(run, {}).items()
            if ref.inline is not None or (self._objects / ref.digest[:2] / ref.digest).exists()
        }
        return expected(signed(self.program, truth, run), self.program.returned(), self.stored, known)

    @property
    def _objects(self) -> Path:
        return self.folder / ".hooke" / "store" / "objects"

    def _attempts(self, run: str) -> Iterator[tuple[int, int, int, Ref, MapExpanded | None]]:
        """What the last driver of the run computed: node, first item, end, where, and the list of a dynamic map."""
        events = list(self._project.runs.events(run))
        start = max(at for at, event in enumerate(events) if isinstance(event, RunStarted))
        for event in events[start:]:
            if isinstance(event, AttemptFinished):
                yield event.node, event.lo, event.hi, event.ref, event.expanded
            elif isinstance(event, AttemptFailed) and event.done and event.ref is not None:
                yield event.node, event.lo, event.lo + event.done, event.ref, None

    def _ran(self, truth: Truth, run: str) -> Counter[str]:
        nodes = signed(self.program, truth, run)
        return Counter(
            _item(nodes, node, item)
            for node, lo, hi, _, expanded in self._attempts(run)
            if expanded is None
            for item in range(lo, hi)
        )

    def _check_ran(
        self, ran: Counter[str], wants: Sequence[Expected], truth: Truth, runs: Sequence[str]
    ) -> None:
        must = set[str]().union(*(want.must for want in wants))
        may = set[str]().union(*(want.may for want in wants))
        most, words = Counter[str](), dict[str, str]()
        for run in runs:
            for at, each in enumerate(signed(self.program, truth, run)):
                for item, sign in enumerate(each.items):
                    most[sign] = 1 if each.is_call else most[sign] + 1
                    words.setdefault(sign, f"{each.node.task} (v{at}{'' if each.is_call else f'[{item}]'})")
        if not truth.error and (stale := must - ran.keys()):
            raise Fault("stale", f"did not run: {', '.join(sorted(words[sign] for sign in stale))}")
        needless = {sign for sign in ran if sign not in must | may and not sign.startswith("unknown")}
        if needless:
            raise Fault("needless", f"ran: {', '.join(sorted(words.get(sign, sign) for sign in needless))}")
        twice = {sign for sign, count in ran.items() if count > most.get(sign, count)}
        if twice:
            raise Fault("needless", f"ran more than once: {', '.join(sorted(words[sign] for sign in twice))}")

    def _check_why(self, run: str) -> None:
        for each in why(self._project.runs, run):
            if each.outcome not in ("ran", "partly cached", "failed"):
                continue
            if not each.causes or any(cause.kind == "unknown" for cause in each.causes):
                raise Fault(
                    "unexplained", f"{each.task} {each.outcome}: {[cause.text for cause in each.causes]}"
                )

    def _note(self, truth: Truth, run: str, *, killed: bool = False) -> None:
        """Note what the run has made known. After a kill it is sure for the run itself only."""
        nodes = signed(self.program, truth, run)
        view, stored, journal = (
            RunView.fold(self._project.runs.events(run)),
            self.stored,
            self.journals.setdefault(run, {}),
        )
        for node, lo, hi, ref, expanded in self._attempts(run):
            if expanded is not None:
                self._note_list(nodes[node], ref, run, killed=killed)
                continue
            for item in range(lo, hi):
                sign = _item(nodes, node, item)
                if self.program.tasks[nodes[node].node.task].cache:
                    if killed:
                        stored.unsure.add(sign)
                    else:
                        stored.results[sign] = ref.digest
        for number, each in view.nodes.items():
            if each.planned.task != nodes[number].node.task:
                raise Fault("error", f"node {number} is {each.planned.task}")
            self._note_keys(nodes[number], each.planned)
            for lo, hi, ref, _ in each.results:
                for item in range(lo, hi):
                    journal[nodes[number].sign, _item(nodes, number, item)] = ref
            for lo, hi in each.cached:
                for item in range(lo, hi):
                    sign = _item(nodes, number, item)
                    if sign in stored.unsure:
                        stored.results[sign] = journal[nodes[number].sign, sign].digest
        stored.unsure -= stored.results.keys()

    def _note_list(self, each: Signed, ref: Ref, run: str, *, killed: bool) -> None:
        self.journals[run][each.sign, "list"] = ref
        if self.program.tasks[each.node.task].cache:
            if killed:
                self.stored.unsure.add(f"list {each.sign}")
            else:
                self.stored.lists.add(each.sign)

    def _note_keys(self, each: Signed, planned: NodePlanned) -> None:
        if each.is_call:
            self._note_key(planned.key, each.sign)
            return
        self._note_key(planned.recipe, each.recipe)
        self.stored.recipes.setdefault(each.recipe, set()).update(each.items)
        self._note_key(expansion_key(planned.key), f"list {each.sign}")

    def _note_key(self, key: str, sign: str) -> None:
        signs = self.stored.keys.setdefault(key, [])
        if sign in signs:
            signs.remove(sign)
        signs.append(sign)


def _item(nodes: Sequence[Signed], node: int, item: int) -> str:
    """The signature of an item; one of its own where plain Python never got to the list."""
    items = nodes[node].items
    return items[item] if item < len(items) else f"unknown {nodes[node].sign} {item}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


# --- Forked drivers.


def _fork(act: Callable[[], object]) -> int:
    """Start a child that acts and ends with 0, or with 1 and a traceback."""
    gc.freeze()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # Python warns of forks beside threads; none holds a lock here
        child = os.fork()
    if child:
        gc.unfreeze()
        return child
    try:
        act()
    except BaseException:  # noqa: BLE001 - whatever it is, the child must not go on as the test
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _forked(act: Callable[[], object]) -> int:
    return _wait(_fork(act))
