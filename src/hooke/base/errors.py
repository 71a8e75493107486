"""Every error that Hooke raises on purpose.

    HookeError
    ├── UsageError            a declaration, a name or a parameter is wrong
    ├── TraceError            a pipeline's body cannot be traced
    ├── NotFingerprintable    an argument has no cache key
    ├── StoreError            CorruptObject, MissingObject, StoreFull, StoreUnavailable
    ├── JournalError          a journal cannot be written or read
    ├── ConfigError           hooke.toml
    ├── UntrustedModel        a model may run code, and this project does not trust it
    ├── InputChanged          a file changed after the run was planned
    ├── MissingExtra          a library is not installed; names the exact pip command
    ├── NotEnoughData         measurements do not determine a law or an answer: BeyondTheData
    ├── RunStopped            result() of a stopped run
    ├── TaskFailed            TaskError, WorkerDied, OutOfMemory, TimedOut, NotPicklable, EnvironmentMismatch
    ├── Permanent             raised by user code: do not retry
    └── Temporary             raised by user code: retry, after `delay_s` if it is set

`str(error)` fits one screen: what failed, then the lines `where`, `why`, `fix` and `next` that are set.
"""

from __future__ import annotations

import signal as signals
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hooke.base.formats import first_line, format_bytes, preformatted, readable, tries_text
from hooke.base.user_code import raising_line, user_frames, user_stack

__all__ = [
    "BeyondTheData",
    "ConfigError",
    "CorruptObject",
    "EnvironmentMismatch",
    "HookeError",
    "InputChanged",
    "JournalError",
    "MissingExtra",
    "MissingObject",
    "NotEnoughData",
    "NotFingerprintable",
    "NotPicklable",
    "OutOfMemory",
    "Permanent",
    "RunStopped",
    "StoreError",
    "StoreFull",
    "StoreUnavailable",
    "TaskError",
    "TaskFailed",
    "Temporary",
    "TimedOut",
    "TraceError",
    "UntrustedModel",
    "UsageError",
    "WorkerDied",
]

MOST_LOG_LINES = 20
"""Lines of a log that an error shows, so that it fits one screen."""
MOST_FRAME_LINES = 30
"""Lines of a traceback that an error shows: its last ten frames."""
MOST_MESSAGE_LINES = 12
"""Lines of an exception's message that an error shows below its frames."""
LONGEST_LINE = 500
"""Characters of a line of a message or a log that an error shows."""


class HookeError(Exception):
    """Root of the errors that Hooke raises on purpose.

    `what` says what failed, `where` the place, `why` the cause, `fix` how to fix it and the valid values, and `next`
    the next command to type. All are text, kept as attributes, and survive pickling.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "", next: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.fix = fix
        self.next = next

    def __str__(self) -> str:
        # Texts of others may hold what a terminal obeys.
        return readable("\n".join([self.what, *self._lines()]))

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own reduce passes only `args` to the class, which loses a subclass's required arguments.
        return _rebuild, (type(self), self.args), self.__dict__

    def _repr_html_(self) -> str:
        return preformatted(f"{type(self).__name__}: {self}")

    def _render_traceback_(self) -> list[str]:
        """What IPython shows below a cell: the user's own lines that led here, then the text."""
        return [*user_stack(self.__traceback__), "", f"{type(self).__name__}: {self}"]

    def _lines(self) -> Iterator[str]:
        yield from _entry("where", self.where)
        yield from _entry("why", self.why)
        yield from _entry("fix", self.fix)
        yield from _entry("next", self.next)


class UsageError(HookeError):
    """A declaration, a name or a parameter is wrong; `fix` lists what is valid."""


class TraceError(HookeError):
    """A pipeline's body cannot be traced: it needed a value that does not exist yet."""


class NotFingerprintable(HookeError):
    """Hooke cannot build a cache key for an argument, so it cannot build one for the task's result."""


class StoreError(HookeError):
    """An operation of the store failed."""


class CorruptObject(StoreError):
    """A stored object is damaged."""


class MissingObject(StoreError):
    """The store does not hold an object."""


class StoreFull(StoreError):
    """No room for another object. Stored objects are intact."""


class StoreUnavailable(StoreError):
    """The store's place did not take or give bytes; it may do so later, so the task is retried if it has `retries`."""


class JournalError(HookeError):
    """A journal cannot be written or read. Its events are intact."""


class ConfigError(HookeError):
    """`hooke.toml` is not valid."""


class UntrustedModel(HookeError):
    """A model may run code when it is loaded, and this project does not trust it; `what` names the model."""


class InputChanged(HookeError):
    """A `hooke.File` was changed after the run was planned; `what` names it. Tried again as the task's `retries` say."""


class MissingExtra(HookeError):
    """A library that a backend or a format needs is not installed; `fix` is the exact command."""


class NotEnoughData(HookeError):
    """The measurements do not determine the law or the answer.

    `measure_at` is the N that is best measured next, if known; `next` says it in words.
    """

    def __init__(self, what: str, *, measure_at: float | None = None, **context: str) -> None:
        super().__init__(what, **context)
        self.measure_at = measure_at


class BeyondTheData(NotEnoughData):
    """The answer lies in a range where the laws that fit the measurements differ too much."""


class RunStopped(HookeError):
    """The run was stopped before it had a result; it can be resumed."""


class Permanent(HookeError):
    """Raised by user code: the task would fail again, so it is not retried."""


class Temporary(HookeError):
    """Raised by user code: retry the task, after `delay_s` seconds if that is set.

    The retry counts against the task's `retries`.
    """

    def __init__(self, what: str, *, delay_s: float | None = None, **context: str) -> None:
        super().__init__(what, **context)
        self.delay_s = delay_s


class GangResized(BaseException):
    """Ends a rank of an elastic gang at a checkpoint, from which the gang goes on with another number of ranks.

    It is no error, and no Exception, so that `except Exception` lets it through. Where a task catches it all the same, what the task
    returns does not count.
    """


class TaskFailed(HookeError):
    """A task has no result. Its subclasses tell why; `from_facts` picks the right one.

    `task` is the task's name, `item` the item of its map (None for a call), `arguments` its arguments as short text, `attempt` the number of the last attempt
    in its run (0 if there was none), `worker` its worker, `log_tail` the last lines of its output, and `details` the facts as
    plain values: error_type, message, traceback, exit_code, signal, peak_bytes, limit_bytes and others.

    Raised by `run()` and `Run.result()` for an exception of the task, it is also an instance of the exception's class, where this
    process can import that: `except KeyError` catches it. It has the exception's `args` and attributes, but for those named
    above; the exception itself is its `__cause__`.
    """

    # Many parameters: the fields of one message, each a keyword with a default.
    def __init__(  # noqa: PLR0913
        self,
        what: str,
        *,
        task: str = "",
        item: int | None = None,
        arguments: str = "",
        attempt: int = 0,
        worker: str = "",
        log_tail: Sequence[str] = (),
        details: Mapping[str, Any] | None = None,
        **context: str,
    ) -> None:
        super().__init__(what, **context)
        self.task = task
        self.item = item
        self.arguments = arguments
        self.attempt = attempt
        self.worker = worker
        self.log_tail = tuple(log_tail)
        self.details = dict(details or {})

    @property
    def source(self) -> str:
        """The last line of the user's code that ran: `flights.py:34: return rows[7]`; empty if none raised."""
        return raising_line(str(self.details.get("traceback") or ""))

    @staticmethod
    def from_facts(  # noqa: PLR0913 - as above
        facts: Mapping[str, Any],
        *,
        task: str,
        item: int | None = None,
        attempt: int = 0,
        tries: tuple[int, int] = (0, 0),
        worker: str = "",
        run: str = "",
        next: str = "",
    ) -> TaskFailed:
        """The subclass that `facts["kind"]` names, with its text from the facts (those of `journal.events.Failure`).

        `tries` are which of the task's tries it was, and how many it has. `next` is by default what looks at a task of `run`. A kind that
        this version does not know gives a plain TaskFailed.
        """
        arguments = str(facts.get("arguments") or "")
        kind = _BRANCHES.get(str(facts.get("kind")), TaskFailed)
        logs = f"hooke logs {run} {task}" if run else ""
        whole = logs if facts.get("in_log") else f"hooke show --json {run}" if run else ""
        return kind(
            f"{_call(task, arguments)} failed{_rank(facts)}: {first_line(_cause(facts))}",
            task=task,
            item=item,
            arguments=arguments,
            attempt=attempt,
            worker=worker,
            log_tail=facts.get("log_tail") or (),
            details={name: value for name, value in facts.items() if name not in _OWN_FACTS},
            where=_place(attempt, tries, worker),
            why=_explanation(facts, whole),
            fix=str(facts.get("fix") or ""),
            next=next or (_looks(run, task, item, facts) if run and kind is TaskError else logs),
        )

    def _lines(self) -> Iterator[str]:
        yield from _entry("where", self.where)
        yield from _entry("why", self.why)
        tail = self.log_tail[-MOST_LOG_LINES:]
        count = "last line" if len(tail) == 1 else f"last {len(tail)} lines"
        yield from _entry(f"log ({count})", "".join(f"\n{_cut(line.rstrip())}" for line in tail))
        yield from _entry("fix", self.fix)
        yield from _entry("next", self.next)


class TaskError(TaskFailed):
    """The task's own code raised."""


class WorkerDied(TaskFailed):
    """The task's process ended: by a signal, `os._exit` or a lost machine."""


class OutOfMemory(TaskFailed):
    """The task exceeded its memory limit, or the machine ran out of memory."""


class TimedOut(TaskFailed):
    """The task took longer than its `timeout`."""


class NotPicklable(TaskFailed):
    """The task, an argument or its result cannot be pickled."""


class EnvironmentMismatch(TaskFailed):
    """The worker lacks a module or has another version than the driver."""


_BRANCHES: dict[str, type[TaskFailed]] = {
    branch.__name__: branch
    for branch in (TaskError, WorkerDied, OutOfMemory, TimedOut, NotPicklable, EnvironmentMismatch)
}
_OWN_FACTS = frozenset({"kind", "arguments", "log_tail", "fix", "pickled", "in_log"})


def _rebuild(kind: type[HookeError], args: tuple[Any, ...]) -> HookeError:
    error = kind.__new__(kind, *args)
    error.args = args
    return error


def _entry(label: str, text: str) -> Iterator[str]:
    if text:
        below = textwrap.indent(text, "      ").lstrip(" ")
        yield f"  {label}:{below}" if text.startswith("\n") else f"  {label}: {below}"


def _call(task: str, arguments: str) -> str:
    return arguments if arguments.startswith(f"{task}(") else f"{task}({arguments})"


def _place(attempt: int, tries: tuple[int, int], worker: str) -> str:
    tried = tries_text(*tries) if tries[0] else f"attempt {attempt}" if attempt else ""
    return " on ".join(part for part in (tried, worker and f"worker {worker}") if part)


def _looks(run: str, task: str, item: int | None, facts: Mapping[str, Any]) -> str:
    """The commands that look at an exception of a task: in pdb, and at what it printed."""
    debug = f"hooke debug {run} {task}" + ("" if item is None else f" --item {item}")
    return f"{debug}\nor: hooke logs {run} {task}" if facts.get("log_tail") else debug


def _rank(facts: Mapping[str, Any]) -> str:
    rank = facts.get("rank")
    return "" if rank is None else f" in rank {rank} of {facts.get('ranks')}"


def _cause(facts: Mapping[str, Any]) -> str:
    message, kind = str(facts.get("message") or ""), str(facts.get("error_type") or "")
    if kind and not message.startswith(kind):
        return f"{kind}: {message}" if message else kind
    return message or _death(facts) or str(facts.get("kind") or "unknown cause")


def _explanation(facts: Mapping[str, Any], whole: str) -> str:
    """Why it failed: the frames and the message, cut to fit a screen. `whole` is the command that prints all of it."""
    cause = _cause(facts)
    frames, message = _split(user_frames(str(facts.get("traceback") or "")), cause)
    if len(frames) > MOST_FRAME_LINES:
        frames = [f"... {len(frames) - MOST_FRAME_LINES} lines above", *frames[-MOST_FRAME_LINES:]]
    frames += _cut_lines(message, whole)
    # The first line of the whole text has that of the message.
    rest = "" if frames or cause == first_line(cause) else "\n".join(_cut_lines(cause.splitlines(), whole))
    ending = _ending(facts)
    said = ending.partition(" (")[0] in cause
    return "\n".join(part for part in (rest, _memory(facts) if said else _death(facts), *frames) if part)


def _split(lines: list[str], cause: str) -> tuple[list[str], list[str]]:
    """The frames of a traceback, and the lines of its exception's message, which begins like `cause`."""
    first = cause.partition("\n")[0][:LONGEST_LINE].rstrip()
    at = next((at for at in reversed(range(len(lines))) if first and lines[at].startswith(first)), len(lines))
    return lines[:at], lines[at:]


def _cut_lines(lines: Sequence[str], whole: str) -> list[str]:
    """At most MOST_MESSAGE_LINES of them, each cut, with the command that prints the whole if anything is missing."""
    most = MOST_MESSAGE_LINES
    kept = [_cut(line) for line in (lines if len(lines) <= most else lines[: most - 2])]
    if len(lines) > most:
        kept += [f"... {len(lines) - most + 1} more lines ...", _cut(lines[-1])]
    said = f"the whole message: {whole}" if whole and kept != list(lines) else ""
    return [*kept, *([said] if said else [])]


def _cut(line: str) -> str:
    more = len(line) - LONGEST_LINE
    return line if more <= 0 else f"{line[:LONGEST_LINE]} ... {more:,} more characters"


def _death(facts: Mapping[str, Any]) -> str:
    return "; ".join(part for part in (_ending(facts), _memory(facts)) if part)


def _ending(facts: Mapping[str, Any]) -> str:
    number, code = facts.get("signal"), facts.get("exit_code")
    if number is not None:
        return f"killed by {_signal_name(number)}"
    return f"exit code {code}" if code is not None else ""


def _signal_name(number: int) -> str:
    try:
        return f"{signals.Signals(number).name} ({number})"
    except ValueError:
        return f"signal {number}"


def _memory(facts: Mapping[str, Any]) -> str:
    peak, limit = facts.get("peak_bytes"), facts.get("limit_bytes")
    if peak is None:
        return f"memory limit {format_bytes(limit)}" if limit is not None else ""
    allowed = f" of {format_bytes(limit)} allowed" if limit is not None else ""
    declared = facts.get("outgrown_bytes")
    again = f"; it ran again, because {format_bytes(declared)} had been too little" if declared else ""
    return f"peak memory {format_bytes(peak)}{allowed}{again}"
