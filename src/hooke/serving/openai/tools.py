"""Tools of a chat: the functions that a client offers, and the calls of them in what a model says."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from hooke.serving.problems import WrongField

__all__ = [
    "TOOL_MARKS",
    "AskedTools",
    "ToolCall",
    "ToolCallReader",
    "ToolForm",
    "overlap",
    "read_call",
    "read_tools",
    "takes_tools",
]

TOOL_MARKS = ("<tool_call>", "</tool_call>")
"""What a call stands between, as Hermes and Qwen say it: `<tool_call>{"name": "f", "arguments": {}}</tool_call>`."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CHOICES = ("auto", "none", "required")
_BLANKS = " \t\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedTools:
    """The functions that an answer may call, and whether it must."""

    functions: tuple[dict[str, Any], ...]
    """As `{"type": "function", "function": {"name", "description", "parameters", "strict"}}`, which chat templates take."""
    required: bool = False
    name: str | None = None
    """The only one that may be called."""
    parallel: bool = True
    """Whether an answer may have several calls."""

    @property
    def callable(self) -> list[Mapping[str, Any]]:
        """Those that may be called."""
        made = [each["function"] for each in self.functions]
        return [each for each in made if self.name in (None, each["name"])]

    @property
    def strict(self) -> bool:
        """Whether arguments must follow their schema."""
        return any(each.get("strict") for each in self.callable)


def read_tools(
    tools: Sequence[Any] | None, choice: Any, *, parallel: bool | None, flat: bool = False
) -> AskedTools | None:
    """The tools of a request; None if there are none, or none may be called. `flat`: as `/v1/responses` has them. Raises WrongField."""
    functions = tuple(_function(f"tools[{at}]", tool, flat=flat) for at, tool in enumerate(tools or ()))
    names = [each["function"]["name"] for each in functions]
    if len(set(names)) < len(names):
        raise WrongField("tools", "two of them have the same name")
    if isinstance(choice, Mapping):
        named = choice if flat else choice.get("function")
        if choice.get("type") != "function" or not isinstance(named, Mapping):
            raise WrongField(
                "tool_choice", f"must be one of {', '.join(_CHOICES)}, or a function; not {_shown(choice)}"
            )
        if named.get("name") not in names:
            raise WrongField("tool_choice", f"{_shown(named.get('name'))} is not among the tools")
        return AskedTools(
            functions=functions, required=True, name=named["name"], parallel=parallel is not False
        )
    if choice not in (None, *_CHOICES):
        raise WrongField("tool_choice", f"{_shown(choice)} is not one of {', '.join(_CHOICES)}")
    if not functions and choice == "required":
        raise WrongField("tool_choice", "required needs tools")
    if not functions or choice == "none":
        return None
    return AskedTools(functions=functions, required=choice == "required", parallel=parallel is not False)


def _function(where: str, tool: Any, *, flat: bool) -> dict[str, Any]:
    if not isinstance(tool, Mapping) or tool.get("type") != "function":
        kind = tool.get("type") if isinstance(tool, Mapping) else tool
        raise WrongField(f"{where}.type", f"{_shown(kind)} is not supported, only function")
    inner, inside = (tool, where) if flat else (tool.get("function"), f"{where}.function")
    if not isinstance(inner, Mapping):
        raise WrongField(inside, "is missing or is not an object")
    name, parameters = inner.get("name"), inner.get("parameters")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise WrongField(f"{inside}.name", "must be 1 to 64 of the letters A-Z, a-z, 0-9, _ and -")
    if parameters is not None and (
        not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object"
    ):
        raise WrongField(f"{inside}.parameters", "must be the JSON Schema of an object")
    made = {"name": name, "parameters": parameters or {"type": "object", "properties": {}}}
    made |= {key: inner[key] for key in ("description", "strict") if inner.get(key) is not None}
    return {"type": "function", "function": made}


def read_call(identity: Any, function: Any, where: str) -> dict[str, Any]:
    """A call of an earlier answer, with its arguments as an object, as chat templates take it. Raises WrongField."""
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise WrongField(f"{where}.name", "is missing or is not a string")
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except (ValueError, TypeError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise WrongField(f"{where}.arguments", "must be the text of a JSON object")
    made = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return {"id": identity, **made} if isinstance(identity, str) else made


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)[:80]


# --- What a class has of it.


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolForm:
    """How a model says calls: what is between the marks, `read` makes calls of."""

    marks: tuple[str, str] = TOOL_MARKS
    read: Callable[[str], Iterable[tuple[str, Any]]]
    own: bool = False
    """Whether the class reads calls itself, so that their form is not known here."""


def takes_tools(made: Any) -> ToolForm | None:
    """How a service's class says calls; None if its `encode` takes no tools."""
    if "tools" not in inspect.signature(made.encode).parameters:
        return None
    begin, end = getattr(made, "tool_marks", TOOL_MARKS)
    own = getattr(made, "read_tool_calls", None)
    return ToolForm(marks=(begin, end), read=own or _hermes, own=own is not None)


def _hermes(text: str) -> list[tuple[str, Any]]:
    """The call in `{"name": "f", "arguments": {}}`. Raises ValueError."""
    said = json.loads(text)
    name = said.get("name") if isinstance(said, dict) else None
    return [(name, said.get("arguments", {}))] if isinstance(name, str) else []


class ToolCall(NamedTuple):
    """A call that a model has said. Its arguments are JSON."""

    id: str
    name: str
    arguments: str


class ToolCallReader:
    """Finds the calls in one answer while it grows.

    Text before a call is passed on as soon as it cannot be the beginning of one; blanks around calls are left out. What stands
    between marks and is not a call, or has no end, is text as the model said it.
    """

    def __init__(self, form: ToolForm, identity: str) -> None:
        """The ids of its calls depend on `identity` and their number only: another replica that goes on with the answer gives them the same."""
        self._form = form
        self._identity = identity
        self._held = ""
        """Blanks, and what may be the beginning of a mark; inside of a call all of it."""
        self._inside = False
        self._blanks = ""
        """Those before the mark."""
        self.calls = 0
        """So far."""

    def read(self, text: str, *, last: bool) -> tuple[str, list[ToolCall]]:
        """The text and the calls that are certain now; `last`: all there is. Raises what the class's `read_tool_calls` raises, but for ValueError."""
        begin, end = self._form.marks
        said, found = "", list[ToolCall]()
        rest, self._held = self._held + text, ""
        while rest:
            if not self._inside:
                before, mark, rest = rest.partition(begin)
                kept = (
                    len(before)
                    if not mark and last
                    else len(before) - _kept(before, begin if not mark else "")
                )
                said, blanks = said + before[:kept], before[kept:]
                if not mark:
                    self._held = blanks
                    break
                self._inside, self._blanks = True, blanks
            inner, mark, after = rest.partition(end) if end else (rest, "", "")
            if not (mark or last):
                self._held = rest
                break
            calls = self._calls(inner, self.calls + len(found)) if mark or not end else []
            said += "" if calls else self._blanks + begin + inner + mark
            found += calls
            self._inside, rest = False, after
        if last and self._inside:  # the answer ended right behind a mark
            said, self._inside = said + self._blanks + begin, False
        self.calls += len(found)
        return "" if self.calls and not said.strip(_BLANKS) else said, found

    def _calls(self, inner: str, before: int) -> list[ToolCall]:
        """Those that are said here, after so many others."""
        try:
            said = enumerate(self._form.read(inner), before)
            return [
                _called(f"{self._identity} {number}", name, arguments) for number, (name, arguments) in said
            ]
        except (ValueError, RecursionError):
            return []


def _called(identity: str, name: str, arguments: Any) -> ToolCall:
    text = (
        arguments
        if isinstance(arguments, str)
        else json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    )
    return ToolCall(f"call_{hashlib.blake2b(identity.encode(), digest_size=12).hexdigest()}", name, text)


def _kept(text: str, mark: str) -> int:
    """How much of the text's end may belong to a call: the beginning of the mark, and blanks before it."""
    return len(text) - len(text[: len(text) - overlap(text, mark)].rstrip(_BLANKS))


def overlap(text: str, mark: str) -> int:
    """How much of the text's end may be the beginning of `mark`, and is not all of it."""
    sizes = range(min(len(mark) - 1, len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(mark[:size])), 0)
