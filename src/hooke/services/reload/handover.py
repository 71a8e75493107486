"""Which version of a service answers, which one follows, and what to do when files change and when a version is ready, fails or ends. Pure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

__all__ = [
    "Action",
    "CutProcess",
    "DrainProcess",
    "DrainedReply",
    "Event",
    "Failed",
    "FilesChanged",
    "FilesVersion",
    "FromDevChild",
    "Gone",
    "Handover",
    "HandoverDone",
    "ImportedModules",
    "Interrupted",
    "KillProcess",
    "NowServing",
    "Ready",
    "Say",
    "ServeRefused",
    "StartProcess",
    "decode",
    "encode",
    "step",
]


# --- Messages from the process that serves one version to its parent.


class NowServing(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """It is set up, and accepts connections."""

    lines: tuple[str, ...]
    """How to call it, for people."""


class ImportedModules(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The project's modules that it has imported so far."""

    files: tuple[str, ...]


class ServeRefused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """It cannot serve: the error and its place, the last lines of the traceback, and the fix."""

    what: str
    where: str = ""
    why: tuple[str, ...] = ()
    fix: str = ""


class DrainedReply(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """It has drained."""

    run: str
    answered: int
    cut: int


FromDevChild: TypeAlias = NowServing | ImportedModules | ServeRefused | DrainedReply

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(FromDevChild).decode


@dataclass(frozen=True, slots=True)
class FilesVersion:
    """A version of the files; people know it by its time of day."""

    number: int
    at: str

    def __str__(self) -> str:
        return f"the version of {self.at}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """The state. Of the versions whose process lives at most one is `serving` and one `coming`; the others are `leaving`."""

    serving: FilesVersion | None = None
    coming: FilesVersion | None = None
    leaving: frozenset[FilesVersion] = frozenset()
    said: tuple[str, ...] = ()
    """The lines of the last version that answered."""
    started: int = 0
    interrupted: int = 0
    failed: bool = False
    """Whether requests were cut, or no version served at the end."""

    @property
    def living(self) -> frozenset[FilesVersion]:
        """The versions whose process has not ended."""
        return self.leaving | {one for one in (self.serving, self.coming) if one is not None}


@dataclass(frozen=True, slots=True)
class FilesChanged:
    """These files changed; none for the first start."""

    names: tuple[str, ...]
    at: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The version accepts connections."""

    number: int
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """The version cannot be set up."""

    number: int
    refused: ServeRefused


@dataclass(frozen=True, slots=True)
class Gone:
    """Its process has ended; `served` is its own report, if it sent one."""

    number: int
    how: str
    served: DrainedReply | None = None


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Ctrl-C or SIGTERM."""


@dataclass(frozen=True, slots=True)
class StartProcess:
    """Start a process for this version."""

    version: FilesVersion


@dataclass(frozen=True, slots=True)
class DrainProcess:
    """Let it answer its requests, and end."""

    number: int


@dataclass(frozen=True, slots=True)
class CutProcess:
    """End it without answering what still runs."""

    number: int


@dataclass(frozen=True, slots=True)
class KillProcess:
    """Kill it."""

    number: int


@dataclass(frozen=True, slots=True)
class Say:
    """To people."""

    text: str


@dataclass(frozen=True, slots=True)
class HandoverDone:
    """No process is left, and none is wanted."""


Event: TypeAlias = FilesChanged | Ready | Failed | Gone | Interrupted
Action: TypeAlias = StartProcess | DrainProcess | CutProcess | KillProcess | Say | HandoverDone


def step(state: Handover, event: Event) -> tuple[Handover, tuple[Action, ...]]:
    """The next state and the actions. A version answers until its successor does; messages of a replaced version change nothing."""
    match event:
        case FilesChanged():
            return _changed(state, event)
        case Ready():
            return _ready(state, event)
        case Failed():
            return _failed(state, event.number, event.refused)
        case Gone():
            return _gone(state, event)
        case Interrupted():
            return _interrupted(state)


def _changed(state: Handover, event: FilesChanged) -> tuple[Handover, tuple[Action, ...]]:
    if state.interrupted:
        return state, ()
    version = FilesVersion(state.started + 1, event.at)
    said: list[Action] = []
    leaving = state.leaving
    if event.names:
        text = f"{_listed(event.names)} changed: setting up a new version"
        if state.coming is not None:
            text += f"; {state.coming} was not ready and is ended"
        said.append(Say(text))
    if state.coming is not None:
        said.append(KillProcess(state.coming.number))
        leaving |= {state.coming}
    made = dataclasses.replace(state, coming=version, leaving=leaving, started=version.number)
    return made, (*said, StartProcess(version))


def _ready(state: Handover, event: Ready) -> tuple[Handover, tuple[Action, ...]]:
    coming, old = state.coming, state.serving
    if coming is None or coming.number != event.number:
        return state, ()
    actions: list[Action] = []
    if state.started > 1:
        then = f"; {old} answers its open requests and ends" if old is not None else ""
        actions.append(Say(f"{coming} answers{then}"))
    actions += [Say(line) for line in event.lines if line not in state.said]
    leaving = state.leaving
    if old is not None:
        actions.append(DrainProcess(old.number))
        leaving |= {old}
    made = dataclasses.replace(state, serving=coming, coming=None, leaving=leaving, said=event.lines)
    return made, tuple(actions)


def _failed(state: Handover, number: int, refused: ServeRefused) -> tuple[Handover, tuple[Action, ...]]:
    coming = state.coming
    if coming is None or coming.number != number:
        return state, ()
    lines = [f"{coming} cannot serve: {refused.where or refused.what}"]
    lines += [f"  {refused.what}"] if refused.where else []
    lines += [f"  | {line}" for line in refused.why]
    lines += [f"  fix: {refused.fix}"] if refused.fix else []
    lines.append(f"  {_left(state.serving)}")
    made = dataclasses.replace(state, coming=None, leaving=state.leaving | {coming})
    return made, (Say("\n".join(lines)),)


def _gone(state: Handover, event: Gone) -> tuple[Handover, tuple[Action, ...]]:
    actions: tuple[Action, ...] = ()
    if state.coming is not None and state.coming.number == event.number:
        refused = ServeRefused(what=f"its process {event.how} before it was ready")
        state, actions = _failed(state, event.number, refused)
    elif state.serving is not None and state.serving.number == event.number:
        gone = state.serving
        state = dataclasses.replace(state, serving=None, leaving=state.leaving | {gone})
        if not state.interrupted:
            actions = (Say(f"{gone} is gone: its process {event.how}\n  {_left(None)}"),)
    gone_ones = {one for one in state.leaving if one.number == event.number}
    if event.served is not None and gone_ones:
        (gone,) = gone_ones
        cut = f", {event.served.cut} cut" if event.served.cut else ""
        actions += (Say(f"{gone} has ended: {event.served.answered} requests answered{cut}"),)
    state = dataclasses.replace(
        state,
        leaving=state.leaving - gone_ones,
        failed=state.failed or (event.served is not None and event.served.cut > 0),
    )
    return state, (*actions, HandoverDone()) if state.interrupted and not state.living else actions


def _interrupted(state: Handover) -> tuple[Handover, tuple[Action, ...]]:
    made = dataclasses.replace(state, interrupted=state.interrupted + 1)
    numbers = sorted(one.number for one in state.living)
    if state.interrupted == 1:
        return made, (Say("cutting open requests"), *map(CutProcess, numbers))
    if state.interrupted > 1:
        return made, tuple(map(KillProcess, numbers))
    made = dataclasses.replace(made, failed=state.serving is None)
    if not state.living:
        return made, (HandoverDone(),)
    said = (Say("draining: open requests are answered; Ctrl-C again cuts them"),) if state.serving else ()
    coming = (KillProcess(state.coming.number),) if state.coming is not None else ()
    serving = (DrainProcess(state.serving.number),) if state.serving is not None else ()
    return dataclasses.replace(
        made, coming=None, leaving=state.leaving | ({state.coming} if state.coming else frozenset())
    ), (*said, *coming, *serving)


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:3])} and {len(names) - 3} more" if len(names) > 3 else ", ".join(names)


def _left(serving: FilesVersion | None) -> str:
    if serving is not None:
        return f"{serving} keeps serving; the next change starts another try"
    return "no version answers, and requests wait: the next change starts another try, Ctrl-C ends"
