"""Runs an attempt in a worker, in the same way on every engine: read the inputs, call the function, store the result."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import msgspec

from hooke.base.clock import Clock
from hooke.base.errors import InputChanged
from hooke.base.files import file_clock_ns
from hooke.base.formats import short_repr
from hooke.base.observed import DataSetsRead, as_unshared
from hooke.base.ref import DataSetRead, ItemsObserved, Ref
from hooke.base.this_process import NO_CHANGE, with_variables
from hooke.journal.events import AttemptFailed, AttemptFinished, CallsFinished, LogSpan
from hooke.keys.file import File, check_unchanged, files_loaded, paths_keyed
from hooke.keys.fingerprint import item_keys
from hooke.pipeline.engine import AlsoCall, QuietCalls
from hooke.pipeline.failures import failure_of
from hooke.pipeline.file_results import FileResults, named_inputs
from hooke.pipeline.isolation import (
    KEY_BYTES,
    ProcessState,
    ReachedNames,
    SeededAttempt,
    SharedArguments,
    own_rows,
    seed_from,
)
from hooke.pipeline.native_readers import watch_libraries
from hooke.pipeline.observation import Attempt, Observer, memos_kept
from hooke.pipeline.observed_events import PathRules
from hooke.pipeline.references import Expansion, MadeResults, expand, is_simple, is_small, pack, unpack
from hooke.store.checkpoints import CheckpointOwner, TaskCheckpoints, raise_if_resized, using_checkpoints
from hooke.store.store import Store
from hooke.tracking.mlflow_runs import MlflowEnvironment, can_open_runs, end_new_runs, open_runs
from hooke.tracking.tracker import MUTED, AttemptScope, Tracker, logging_into

__all__ = ["AttemptRunner", "Log", "TaskUsage", "WorkerCall"]


# --- Measures CPU seconds and peak memory of an attempt.

_WORTH_READING_S = 0.005
"""The peak of shorter attempts is not read, which costs 30 us."""

_WAITED_S, _LEAST_CPU_S = 0.05, 0.001
"""Nor of those that were not much longer because they waited for a core: so little CPU fills a few megabytes."""

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class TaskUsage:
    """CPU seconds and peak resident bytes between `reset` and `measure`. The peak is None if it is not known.

    Linux: the peak is VmHWM, reset by writing 5 to /proc/self/clear_refs (see proc(5)).
    """

    __slots__ = ("_cpu_s", "_fd", "_was_reset")

    def __init__(self) -> None:
        self._cpu_s = 0.0
        self._fd = _opened(os.getpid())
        self._was_reset = False

    def reset(self) -> None:
        """Begin to measure."""
        if self._fd is not None:
            os.write(self._fd, b"5")
        self._cpu_s, self._was_reset = time.process_time(), True

    def count_from(self, cpu_s: float) -> None:
        """Measure the CPU since this time of the process, and no peak."""
        self._cpu_s, self._was_reset = cpu_s, False

    def measure(self, seconds: float) -> tuple[float, int | None]:
        """(CPU seconds, peak bytes) since `reset`, `seconds` ago."""
        cpu_s = time.process_time() - self._cpu_s
        interrupted = seconds < _WAITED_S and cpu_s < _LEAST_CPU_S
        if not self._was_reset or self._fd is None or seconds < _WORTH_READING_S or interrupted:
            return cpu_s, None
        return cpu_s, _peak(_STATUS.read_text())


@functools.cache
def _opened(_pid: int) -> int | None:
    """This process's file for resetting the peak, opened once; a forked process opens its own."""
    return os.open(_RESET, os.O_WRONLY) if os.access(_RESET, os.W_OK) else None


def _peak(status: str) -> int | None:
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


_KEPT = 4
"""How many functions and maps a worker remembers: chunks of one map come in a row."""


class Log(Protocol):
    """The file of an attempt's output."""

    name: str

    def position(self) -> int:
        """Bytes written so far."""
        ...

    def end(self) -> int:
        """The same, where nothing has been done to the output since the last `position`."""
        ...

    def flushed(self) -> int:
        """The same, where nothing but printing has been done to it."""
        ...

    def tail(self, start: int, lines: int) -> tuple[str, ...]:
        """The last lines written since `start`."""
        ...

    def write(self, text: str) -> None:
        """Append. Raises OSError on a full disk."""
        ...


class WorkerCall(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt as it reaches a worker: a Call with the function resolved."""

    attempt: int
    node: int
    kind: str
    lo: int
    hi: int
    function: Callable[..., Any]
    payload: bytes
    shown: str
    awaited: Ref | None = None
    """The result of the attempt that it follows, which its payload does not name."""
    memory: int | None = None
    keys: bytes = b""
    """As in the Call."""
    observe: bool = True
    """As in the Call."""
    variables: Mapping[str, str | None] = {}
    """As in the Call."""
    plain: bool = False
    """As in the Call. If it has results of others as arguments, these must be numbers and texts, too."""
    limit_s: float = 0.0
    """As in the Call."""
    checkpoints: CheckpointOwner | None = None
    """As in the Call."""


_Given: TypeAlias = tuple[Sequence[Any], Mapping[str, Any]]
_NOTHING = pack({}, lambda _: None)  # type: ignore[arg-type, return-value] - it has no promise


@dataclass(slots=True, kw_only=True)
class AttemptRunner:
    """Runs attempts one at a time, in the thread that calls `run`."""

    name: str
    store: Store
    clock: Clock
    log: Log | None = None
    alone: bool = False
    """Whether the worker has its own process, so that a KeyboardInterrupt comes from the task, not from Ctrl-C."""
    tracker: Tracker | None = None
    """Receives what tasks log; None drops it."""
    observer: Observer | None = None
    """Records what tasks read; None lets it be."""
    usage: TaskUsage = field(default_factory=TaskUsage)
    root: Path | None = None
    """The project's folder, below which files that a task writes and returns are stored; None stores none."""
    replaced: str = ""
    """The name of code that the last attempt replaced: another one must not run in this process."""
    made: MadeResults = field(default_factory=MadeResults)
    _names: OrderedDict[int, tuple[Callable[..., Any], ReachedNames]] = field(default_factory=OrderedDict)
    _state: ProcessState = field(init=False)
    _files: list[File] = field(default_factory=list)
    """The inputs of the attempt that are files."""
    _file_results: FileResults | None = field(init=False)
    _since_ns: int = 0
    """When the attempt began, for file systems."""
    _open_before: frozenset[str] = frozenset()
    """Runs of other trackers' own that were open before the attempt."""
    _modules: int = -1
    """How many modules there were when the last attempt ended: an import may change where output goes."""
    _shared: OrderedDict[tuple[int, int, bytes], SharedArguments] = field(default_factory=OrderedDict)
    _checkpoints: TaskCheckpoints | None = None
    """Those of the attempt."""
    _scope: AttemptScope | None = field(init=False)
    """None in a process that may run tasks of several runs at once."""
    _mlflow: MlflowEnvironment = field(init=False)

    def __post_init__(self) -> None:
        self._scope = AttemptScope(self.tracker) if self.tracker is not None and self.alone else None
        self._mlflow = MlflowEnvironment(self.tracker.mlflow if self.tracker is not None else None)
        self._state = ProcessState(alone=self.alone)
        self._file_results = FileResults(self.root, self.store) if self.root is not None else None

    def observe(self, rules: PathRules) -> None:
        """Record what tasks read: files that count by these rules, and variables."""
        watch_libraries()
        boundaries = (
            *(ProcessState.call, _plain_call, AttemptRunner._call),
            *(AttemptRunner._perform_items, AttemptRunner._run_quiet_calls),
        )
        self.observer = Observer(rules, alone=self.alone, boundaries=[each.__code__ for each in boundaries])
        if self.store.checkpoints.root is not None:
            rules.exclude(self.store.checkpoints.root)

    def outdated(self, work: WorkerCall) -> str:
        """What this process keeps in memory for the function and is not so any more: then another process must run the attempt."""
        if self.observer is None or not work.observe:
            return ""
        with with_variables(work.variables):
            return self.observer.outdated(work.function)

    def run(self, work: WorkerCall) -> AttemptFinished | AttemptFailed:
        """Run the attempt. An exception of the task becomes an AttemptFailed; Ctrl-C passes through."""
        tracker, before = self.tracker, open_runs()
        self._open_before = before
        given = self.made.arguments(work.payload, work.awaited) if work.plain else None
        if tracker is None:
            with logging_into(MUTED):
                answer = self._run(work, given)
                end_new_runs(before, None, failed=_has_failed(answer))
            return answer
        try:
            with self._scope or logging_into(tracker):
                if given is not None:  # it starts no process, and imports no library
                    tracker.attempt, tracker.item = work.attempt, None
                else:
                    tracker.move(work.attempt, None)
                    self._mlflow.enter()
                answer = self._run(work, given)
                end_new_runs(before, tracker, failed=_has_failed(answer))
            return answer
        finally:
            tracker.attempt = tracker.item = None
            if not self.alone:
                self.leave()

    # -- groups of plain calls -----------------------------------------------------------------------

    def goes_plainly(self, work: WorkerCall) -> bool:
        """Whether a plain call of this function needs nothing around it now, nor do those behind it: see `run_calls`."""
        self._state.names = self._names_of(work.function)
        if not self._state.is_as_left or self._may_change or with_variables(work.variables) is not NO_CHANGE:
            return False
        shared = self._shared_of(work, _Outcome(), _NOTHING)
        return shared.fixed is not None and not shared.compares and not memos_kept()

    def run_calls(
        self,
        work: WorkerCall,
        calls: Iterator[AlsoCall],
        say: Callable[[CallsFinished | AttemptFinished | AttemptFailed], None],
    ) -> None:
        """Run plain calls behind one another, until one needs something around it, which is not taken from `calls`.

        `say` gets the answers: one for all calls that leave nothing but a small result, their own for others. The first call
        must go plainly; `work` is what all have in common.
        """
        tracker = self.tracker
        before = open_runs()
        self._files = []
        quiet = QuietCalls(self.name, self.clock, say)
        try:
            with logging_into(MUTED) if tracker is None else self._scope or logging_into(tracker), quiet:
                while True:
                    answer = self._run_quiet_calls(work, calls, quiet)
                    end_new_runs(before, tracker, failed=isinstance(answer, AttemptFailed))
                    quiet.say()
                    if answer is None:
                        return
                    say(answer)
                    if not self.goes_plainly(work):
                        return
        finally:
            if tracker is not None:
                tracker.attempt = tracker.item = None

    def _run_quiet_calls(
        self, work: WorkerCall, calls: Iterator[AlsoCall], quiet: QuietCalls
    ) -> AttemptFinished | AttemptFailed | None:
        """Run calls up to the first that leaves more than a small result; returns its answer, None if there is no such call."""
        outcome, tracker, function, log = _Outcome(), self.tracker, work.function, self.log
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        log_from, call, result = self._position(), None, None
        began, cpu_s = time.perf_counter(), time.process_time()
        with self._observed(work, outcome, lambda _: [args, kwargs]):
            for call in calls:
                if tracker is not None:
                    tracker.attempt = call.attempt
                try:
                    args, kwargs = unpack(call.payload, self.store)
                    result = function(*args, **kwargs)
                except BaseException as error:  # noqa: BLE001 - a task may raise anything, SystemExit included
                    outcome.error = error
                    break
                printed = log is not None and log.flushed() != log_from
                if printed or not (is_small(result) and self._state.is_as_left and outcome.has_read_nothing):
                    break
                ended, ended_cpu_s = time.perf_counter(), time.process_time()
                quiet.add(call, self._put(result), ended - began, ended_cpu_s - cpu_s)
                began, cpu_s = ended, ended_cpu_s
            else:
                return None
        self.usage.count_from(cpu_s)
        work = msgspec.structs.replace(work, attempt=call.attempt, node=call.node, shown=call.shown)
        try:
            outcome.ref = self._put(result) if outcome.error is None else None
        except BaseException as error:  # noqa: BLE001 - pickling runs code of the user's
            outcome.error = error
        self.replaced = self._state.names.replaced() if self._state.names is not None else ""
        outcome.observed = self._what_was_read(work, outcome)
        return self._report(work, outcome, time.perf_counter() - began, log_from)

    def leave(self) -> None:
        """Set back the variables by which trackers find the task's run. A worker keeps them from one attempt to the next."""
        self._mlflow.leave()
        if self._scope is not None:
            self._scope.leave()

    def forget(self) -> None:
        """The run is over: let go of the functions that it used."""
        self.leave()
        self._shared.clear()
        self._names.clear()
        self._state.names = None
        if self.observer is not None:
            self.observer.close()

    def _run(self, work: WorkerCall, given: _Given | None) -> AttemptFinished | AttemptFailed:
        """The same. `given` are the arguments if it certainly draws no random numbers and changes nothing in its process."""
        started, log_from = time.perf_counter(), self._position()
        self.usage.reset()
        outcome = _Outcome()
        if self.alone and work.kind in ("call", "map"):
            self._state.names = self._names_of(work.function)
        variables = with_variables(work.variables)
        try:
            left = self._state.is_as_left and not self._may_change
            if given is not None and variables is NO_CHANGE and left:
                self._files = []
                self._call(work, outcome, _plain_call, given)
            else:
                self._since_ns = file_clock_ns()
                with (
                    variables,
                    files_loaded(self.root) as self._files,
                    SeededAttempt(restored=not self.alone),
                    self._state.watched(),
                    self._checkpointing(work, outcome),
                    outcome.data,
                ):
                    self._perform(work, outcome)
                    raise_if_resized()
                    self._check_unchanged(outcome.ref)
        except BaseException as error:  # a task may raise anything, SystemExit included
            if isinstance(error, KeyboardInterrupt) and not self.alone:
                raise
            if isinstance(error, InputChanged):  # whatever was done before may have read the new content
                outcome = _Outcome()
            outcome.error = error
        if self._state.names is not None:
            self.replaced = self._state.names.replaced()
        outcome.data_read = outcome.data.found
        outcome.observed = self._what_was_read(work, outcome)
        if (error := self._stale_checkpoint(outcome)) is not None:
            outcome = _Outcome(error=error)
        return self._report(work, outcome, time.perf_counter() - started, log_from)

    @contextlib.contextmanager
    def _checkpointing(self, work: WorkerCall, outcome: _Outcome) -> Iterator[None]:
        """Surrounds the calls: inside, they have checkpoint folders."""
        if work.checkpoints is None:
            yield
            return
        used = TaskCheckpoints(self.store.checkpoints, work.checkpoints, work.attempt)
        self._checkpoints = outcome.used = used
        failed = True
        try:
            with using_checkpoints(used):
                yield
            used.finish()
            failed = False
        except InputChanged:  # a checkpoint may hold what was made from the new content
            used.discard()
            raise
        finally:
            self._checkpoints = None
            outcome.checkpoints = used.close(failed=failed)

    def _stale_checkpoint(self, outcome: _Outcome) -> InputChanged | None:
        """The error if the attempt went on from a checkpoint that is older than a file it read. The checkpoint is removed."""
        since = outcome.used.continued_since if outcome.used is not None else None
        if since is None or outcome.error is not None or self.observer is None:
            return None
        files = (each.name for piece in outcome.observed for each in piece.inputs if each.kind == "file")
        root = self.observer.rules.root
        changed = next((name for name in files if _changed_at(os.path.join(root, name)) > since), None)
        if changed is None:
            return None
        assert outcome.used is not None
        outcome.used.discard()
        return InputChanged(
            f"{changed} changed after this task's checkpoint was begun",
            where=os.path.join(root, changed),
            why="the task read it without declaring it, and the checkpoint may be made from its old content",
            fix="the checkpoint is removed: run again, and the task begins anew; `retries=` does so by itself",
        )

    def _perform(self, work: WorkerCall, outcome: _Outcome) -> None:
        if work.kind == "call":
            self._call(work, outcome, self._state.call)
        elif work.kind == "gather":
            outcome.ref = self._carry(unpack(work.payload, self.store))
        elif work.kind == "expand":
            payload = unpack(work.payload, self.store)
            with paths_keyed(self._files):
                outcome.expansion = expand(payload, self.store, self._carry)
        else:
            self._perform_map(work, outcome)

    def _call(
        self, work: WorkerCall, outcome: _Outcome, call: Callable[..., Any], given: _Given | None = None
    ) -> None:
        args, kwargs = given or unpack(work.payload, self.store, work.awaited)
        self._provide()
        if work.keys and given is None:
            self._begin_item(work.keys, work.keys)
        shared = self._shared_of(work, outcome, _NOTHING)
        shared.take()
        try:
            with self._observed(work, outcome, lambda _: [args, kwargs]):
                result = call(work.function, *args, **kwargs)
            outcome.ref = self._put(result)
        finally:
            self._state.may_differ |= shared.compares
            shared.changed()
            shared.put_back()

    @property
    def _may_change(self) -> bool:
        """Whether calls of the attempt's function may change a global that it reads."""
        names = self._state.names
        return names is not None and names.may_change

    def _observed(
        self, work: WorkerCall, outcome: _Outcome, arguments: Callable[[int], Sequence[Any]]
    ) -> contextlib.AbstractContextManager[Any]:
        """To surround the calls of an attempt, and nothing else: what Hooke reads is no input."""
        if self.observer is None or not work.observe:
            return NO_CHANGE
        outcome.record = self.observer.attempt(
            work.function, lo=work.lo, arguments=arguments, baseline=self._state.environment
        )
        outcome.record.done = outcome.results
        return outcome.record

    def _perform_map(self, work: WorkerCall, outcome: _Outcome) -> None:
        constants_data, columns_data = unpack(work.payload, self.store)
        shared = self._shared_of(work, outcome, constants_data)
        try:
            try:
                self._perform_items(work, outcome, shared, columns_data)
            except Exception:
                if work.hi - work.lo == 1 or not shared.changed():
                    raise
                self._perform_again(work, outcome, shared, columns_data)
            else:
                if shared.changed() and work.hi - work.lo > 1:
                    self._perform_again(work, outcome, shared, columns_data)
        finally:
            shared.put_back()
            if outcome.results:
                outcome.ref = self._put_items(outcome.results, work.keys)
                outcome.done = len(outcome.results)

    def _perform_again(
        self, work: WorkerCall, outcome: _Outcome, shared: SharedArguments, columns_data: bytes
    ) -> None:
        """The items again, with arguments of their own, and without the checkpoints of arguments that others had changed."""
        if self._checkpoints is not None:
            self._checkpoints.discard()
        self._perform_items(work, outcome, shared, columns_data)

    def _perform_items(
        self,
        work: WorkerCall,
        outcome: _Outcome,
        shared: SharedArguments,
        columns_data: bytes,
    ) -> None:
        layout, items = unpack(columns_data, self.store)
        self._provide()
        rows = items if layout == "rows" else zip(*items, strict=True)
        if not is_simple(columns_data):
            rows = list(own_rows(rows))  # before the first call changes anything
        function, keys, fixed = work.function, _item_keys(work), shared.fixed
        results: list[Any] = []
        outcome.results, outcome.failing = results, ""
        arguments: Sequence[Any] = ()
        call = self._state.call if keys or self._may_change else _plain_call
        batches = _in_time(iter(rows), work.hi - work.lo, work.limit_s)
        try:
            with self._observed(work, outcome, _arguments(layout, items, work.lo, shared)):
                if call is _plain_call and fixed is not None:  # items that open no runs and log nothing
                    for arguments in chain.from_iterable(batches):
                        results.append(function(*arguments, **fixed))  # noqa: PERF401 - a failure keeps those before it
                else:
                    begin = self._beginner(work, keys)
                    for item, arguments in enumerate(chain.from_iterable(batches), work.lo):
                        begin(item)  # with its arguments at hand: this may fail, too
                        results.append(
                            call(function, *arguments, **(shared.take() if fixed is None else fixed))
                        )
        except BaseException:
            if work.hi - work.lo > 1:  # a chunk is shown as a range, so name the item that failed
                outcome.failing = f"item {work.lo + len(results)}: {', '.join(map(short_repr, arguments))}"
            raise

    def _beginner(self, work: WorkerCall, keys: bytes) -> Callable[[int], None]:
        """What begins an item of the chunk; called for each in turn."""
        tracker, loaded, modules, opens = self.tracker, sys.modules, 0, False

        def begin(item: int) -> None:
            nonlocal modules, opens
            if tracker is not None:
                if len(loaded) != modules:  # an item may import what opens runs
                    modules, opens = len(loaded), can_open_runs()
                if opens and item > work.lo:
                    end_new_runs(self._open_before, tracker, failed=False)
                if keys:
                    tracker.move(work.attempt, item)
                else:  # it starts no process
                    tracker.item = item
            if keys:
                at = KEY_BYTES * (item - work.lo)
                self._begin_item(keys[at : at + KEY_BYTES], work.keys[at : at + KEY_BYTES])

        return begin

    def _begin_item(self, key: bytes, indexed: bytes) -> None:
        seed_from(key)
        if self._checkpoints is not None:
            self._checkpoints.begin(key, indexed)

    def _provide(self) -> None:
        """See that the files among the inputs are as they were when their keys were made."""
        if self._files:
            if self._file_results is not None:
                self._file_results.provide(self._files)
            check_unchanged(self._files)

    def _check_unchanged(self, made: Ref | None) -> None:
        """The same after the attempt, but for results of other tasks that it has written over and returned itself."""
        if self._files:
            own = {file.path for file in made.files} if made is not None else set[str]()
            check_unchanged(
                file for file in self._files if file.result is None or file.result.path not in own
            )

    def _put(self, value: Any) -> Ref:
        if is_small(value):  # it has no files, and pickling it runs no code of the user's
            ref = self.store.put(value)
            self.made.note(ref, value)
            return ref
        self._state.may_differ = True
        if self._file_results is None:
            return self.store.put(value)
        return self._file_results.put(value, since_ns=self._since_ns, inputs=self._files)

    def _put_items(self, values: list[Any], keys: bytes) -> Ref:
        if self._file_results is None:
            return self.store.put(values)
        return self._file_results.put_items(values, keys=keys, since_ns=self._since_ns, inputs=self._files)

    def _carry(self, value: Any) -> Ref:
        if self._file_results is None:
            return self.store.put(value)
        return self._file_results.carry(value, inputs=self._files)

    def _names_of(self, function: Callable[..., Any]) -> ReachedNames:
        found = self._names.get(id(function))
        if found is None or found[0] is not function:
            found = self._names[id(function)] = function, ReachedNames(function)
            while len(self._names) > _KEPT:
                self._names.popitem(last=False)
        return found[1]

    def _shared_of(self, work: WorkerCall, outcome: _Outcome, constants: bytes) -> SharedArguments:
        # A call has no constants of its own, so all calls of a function have the same.
        key = (work.node if constants is not _NOTHING else -1, id(work.function), constants)
        found = self._shared.get(key)
        if found is None or found.function is not work.function:
            before = len(self._files)
            with DataSetsRead() as read:
                found = SharedArguments(work.function, lambda: unpack(constants, self.store))
            self._shared[key] = found
            found.files, found.results = self._files[before:], read.results
            while len(self._shared) > _KEPT:
                self._shared.popitem(last=False)
        self._files += found.files
        outcome.data.loaded(found.results)
        return found

    def _report(
        self, work: WorkerCall, outcome: _Outcome, seconds: float, log_from: int
    ) -> AttemptFinished | AttemptFailed:
        cpu_s, peak_bytes = self.usage.measure(seconds)
        facts = {
            "at": self.clock.now(),
            "attempt": work.attempt,
            "node": work.node,
            "lo": work.lo,
            "hi": work.hi,
            "worker": self.name,
            "seconds": seconds,
            "cpu_s": cpu_s,
            "peak_bytes": peak_bytes,
            "log": self._span(log_from),
            "observed": outcome.observed,
            "data": outcome.data_read,
        }
        if outcome.error is None:
            ref = outcome.ref if outcome.expansion is None else outcome.expansion.keys
            assert ref is not None
            expanded = outcome.expansion.event(work.node) if outcome.expansion else None
            if work.limit_s:
                facts["hi"] = work.lo + outcome.done
            return AttemptFinished(ref=ref, expanded=expanded, checkpoints=outcome.checkpoints, **facts)
        tail = self.log.tail(log_from, 20) if self.log is not None else ()
        failure = failure_of(
            outcome.error,
            arguments=outcome.failing or work.shown,
            limit_bytes=work.memory,
            store=self.store,
            log=self.log.write if self.log is not None else None,
        )
        facts["log"] = self._span(log_from)
        return AttemptFailed(
            failure=msgspec.structs.replace(failure, log_tail=tail),
            done=outcome.done,
            ref=outcome.ref if outcome.done else None,
            checkpoints=outcome.checkpoints if outcome.done else (),
            **facts,
        )

    def _what_was_read(self, work: WorkerCall, outcome: _Outcome) -> tuple[ItemsObserved, ...]:
        if self.observer is None or outcome.record is None:
            return ()
        hi = work.hi if outcome.error is None and not work.limit_s else work.lo + outcome.done
        declared = [os.path.abspath(file.path) for file in self._files if file.key is not None]
        observed = self.observer.finish(outcome.record, hi=hi, declared=declared)
        outcome.data_read = _with_declared(outcome.data_read, self._files, outcome.record)
        if self.root is not None and outcome.ref is not None and outcome.ref.files:
            named = named_inputs(outcome.ref, self.root, work.lo)
            observed += as_unshared(named) if self.observer.rules.unshared else named
        return observed

    def _position(self) -> int:
        if self.log is None:
            return 0
        return self.log.end() if self._modules == len(sys.modules) else self.log.position()

    def _span(self, start: int) -> LogSpan | None:
        if self.log is None:
            return None
        self._modules, end = len(sys.modules), self.log.position()
        return LogSpan(self.log.name, start, end) if end != start else None


def _has_failed(answer: AttemptFinished | AttemptFailed) -> bool:
    return isinstance(answer, AttemptFailed) and not answer.resized


MOST_UNWATCHED = 64
"""Items of a chunk with a limit that run between two looks at the clock: as few as have run before, at first one."""


def _in_time(rows: Iterator[Sequence[Any]], count: int, limit_s: float) -> Iterator[Iterator[Sequence[Any]]]:
    """`count` rows in batches, as many as begin within the limit. The first is there in any case."""
    ends, many = time.perf_counter() + limit_s, 1 if limit_s else count
    while count > 0:
        yield islice(rows, many)
        count -= many
        many = min(2 * many, MOST_UNWATCHED)
        if limit_s and time.perf_counter() >= ends:
            return


def _item_keys(work: WorkerCall) -> bytes:
    """The keys of the items, which no item of another map has."""
    return work.keys if work.checkpoints is None else item_keys(work.keys, label=work.checkpoints.recipe)


def _arguments(
    layout: str, items: Sequence[Any], lo: int, shared: SharedArguments
) -> Callable[[int], Sequence[Any]]:
    """The arguments of an item, for whoever wants to know them."""

    def of(item: int) -> Sequence[Any]:
        at = item - lo
        row = items[at : at + 1] if layout == "rows" else [column[at : at + 1] for column in items]
        return [*row, shared.constants]

    return of


def _changed_at(path: str) -> float:
    """When a file was changed; never if it is gone, for which its result counts in this run only."""
    try:
        return os.stat(path).st_ctime
    except OSError:
        return 0.0


def _plain_call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """For items that certainly change nothing in their process."""
    return function(*args, **kwargs)


class _Outcome(msgspec.Struct):
    """The outcome of an attempt, filled in as it runs: a failure keeps the items before it."""

    record: Attempt | None = None
    ref: Ref | None = None
    results: list[Any] = msgspec.field(default_factory=list)
    done: int = 0
    failing: str = ""
    expansion: Expansion | None = None
    error: BaseException | None = None
    checkpoints: tuple[str, ...] = ()
    """Keys of finished items with checkpoint folders."""
    used: TaskCheckpoints | None = None
    observed: tuple[ItemsObserved, ...] = ()
    data: DataSetsRead = msgspec.field(default_factory=DataSetsRead)
    data_read: tuple[DataSetRead, ...] = ()

    @property
    def has_read_nothing(self) -> bool:
        """Whether nothing was observed so far."""
        return self.record is None or not (self.record.events or self.record.trouble)


def _with_declared(
    data: Sequence[DataSetRead], files: Iterable[File], record: Attempt
) -> tuple[DataSetRead, ...]:
    """The data sets, and the files among the inputs of an attempt that it opened, each with the key of its content."""
    keys = {os.path.abspath(file.path): file.key for file in files if file.key is not None}
    if not keys:
        return tuple(data)
    known = [
        each if each.digest else msgspec.structs.replace(each, digest=keys.get(each.source, ""))
        for each in data
    ]
    opened = dict.fromkeys(path for _, kind, path in record.events if kind == "read" and path in keys)
    there = {each.source for each in data}
    return (*known, *(DataSetRead(source=path, digest=keys[path]) for path in opened if path not in there))
