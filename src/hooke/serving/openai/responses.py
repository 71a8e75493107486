"""`POST /v1/responses`, for text and tools, without a state: nothing is kept, and what would need that is refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from hooke.serving.openai.constraints import read_format
from hooke.serving.openai.messages import (
    MOST_LIKELY,
    AskedAnswer,
    bounded,
    in_range,
    likely_tokens,
    read_body,
    text_of,
)
from hooke.serving.openai.sampling import ChosenToken, TokenSampling
from hooke.serving.openai.token_engine import TokenUpdate
from hooke.serving.openai.tools import ToolCall, read_call, read_tools
from hooke.serving.problems import Problem, WrongField

__all__ = ["AskedResponse", "ResponseBody", "ResponseEvents", "read_response"]

ROLES = ("user", "assistant", "system", "developer")
_encode = msgspec.json.Encoder().encode


class ResponseBody(msgspec.Struct, kw_only=True):
    """`POST /v1/responses`."""

    model: str
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    stream: bool | None = None
    text: dict[str, Any] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    include: list[str] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    truncation: str | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None


_STATE = {
    "store": "nothing is kept here; leave it out, or send false",
    "background": "is not supported: nothing is kept here",
    "previous_response_id": "is not supported: nothing is kept here; send the whole conversation as input",
    "conversation": "is not supported: nothing is kept here; send the whole conversation as input",
    "prompt": "is not supported: nothing is kept here; send instructions and input",
}
LOGPROBS = "message.output_text.logprobs"


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedResponse(AskedAnswer):
    """A request, and what its answer says of it again."""

    said_again: Mapping[str, Any]


def read_response(data: bytes) -> AskedResponse:
    """A request for a response. Raises WrongField."""
    body = read_body(data, ResponseBody)
    for name, why in _STATE.items():
        if getattr(body, name):
            raise WrongField(name, why)
    if body.truncation not in (None, "disabled"):
        raise WrongField("truncation", "must be disabled: a prompt that is too long is refused here")
    tools = read_tools(body.tools, body.tool_choice, parallel=body.parallel_tool_calls, flat=True)
    schema = read_format((body.text or {}).get("format"), "text.format", flat=True)
    likely = bounded(body.top_logprobs, "top_logprobs", 0, MOST_LIKELY) or 0
    sampling = TokenSampling(
        temperature=in_range(body.temperature, "temperature", 0, 2, 1.0),
        top_p=in_range(body.top_p, "top_p", 0, 1, 1.0),
        logprobs=likely if likely or LOGPROBS in (body.include or ()) else None,
    )
    return AskedResponse(
        model=body.model,
        chat=True,
        prompts=[_messages(body)],
        n=1,
        most=bounded(body.max_output_tokens, "max_output_tokens", 1, 2**31),
        stream=bool(body.stream),
        with_usage=True,
        stop=(),
        sampling=sampling,
        user=body.user or "",
        tools=tools,
        schema=schema,
        schema_field="text.format.schema",
        said_again=_said_again(body, sampling),
    )


def _said_again(body: ResponseBody, sampling: TokenSampling) -> dict[str, Any]:
    return {
        "background": False,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "store": False,
        "temperature": sampling.temperature,
        "text": {"format": {"type": "text"}, **(body.text or {})},
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools or [],
        "top_logprobs": sampling.logprobs or 0,
        "top_p": sampling.top_p,
        "truncation": "disabled",
        "user": body.user,
    }


# --- The input, as messages of a chat.


def _messages(body: ResponseBody) -> list[dict[str, Any]]:
    """Calls of tools belong to the message of the assistant before them, if there is one."""
    made: list[dict[str, Any]] = []
    if body.instructions:
        made.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*made, {"role": "user", "content": body.input}]
    if not body.input:
        raise WrongField("input", "must not be empty")
    for at, item in enumerate(body.input):
        where = f"input[{at}]"
        if item.get("type") == "function_call":
            if not made or made[-1]["role"] != "assistant":
                made.append({"role": "assistant", "content": ""})
            call = read_call(item.get("call_id"), item, where)
            made[-1].setdefault("tool_calls", []).append(call)
        else:
            made.append(_message(item, where))
    return made


def _message(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = item.get("type", "message")
    if kind == "function_call_output":
        if not isinstance(item.get("call_id"), str):
            raise WrongField(f"{where}.call_id", "is missing or is not a string")
        text = text_of(item.get("output"), f"{where}.output")
        return {"role": "tool", "tool_call_id": item["call_id"], "content": text}
    if kind != "message":
        raise WrongField(f"{where}.type", f"{str(kind)[:80]} is not supported by this service")
    if item.get("role") not in ROLES:
        raise WrongField(f"{where}.role", f"must be one of {', '.join(ROLES)}")
    return {"role": item["role"], "content": text_of(item.get("content"), f"{where}.content")}


# --- The answer, whole or as events.


class _Item:
    """A part of the answer: a message, whose text grows, or a call."""

    def __init__(self, at: int, identity: str, call: ToolCall | None = None) -> None:
        self.at, self.call = at, call
        self.id = f"{'msg' if call is None else 'fc'}_{identity}_{at}"
        self.text = ""
        self.tokens: list[ChosenToken] = []

    def shown(self, status: str, content: Sequence[Any] = ()) -> dict[str, Any]:
        if self.call is None:
            return {
                "id": self.id,
                "type": "message",
                "status": status,
                "role": "assistant",
                "content": content,
            }
        _, name, arguments = self.call
        said = {
            "call_id": self.call.id,
            "name": name,
            "arguments": arguments if status == "completed" else "",
        }
        return {"id": self.id, "type": "function_call", "status": status, **said}


class ResponseEvents:
    """Writes the answer to one request: a response, or the events of one, in order and with their numbers."""

    n = 1
    """Answers to the prompt."""

    def __init__(self, asked: AskedResponse, identity: str, created: int) -> None:
        """`created` as for `AnswerWriter`."""
        self.created = created
        self._with_logprobs = asked.sampling.logprobs is not None
        self._identity = identity
        self._response: dict[str, Any] = {
            "id": f"resp_{identity}",
            "object": "response",
            "created_at": created,
            "model": asked.model,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "output": [],
            "usage": None,
            **asked.said_again,
        }
        self._number = 0
        self._output: list[dict[str, Any]] = []
        self._open: _Item | None = None
        """The message that grows."""
        self._unsaid: list[ChosenToken] = []
        """Tokens whose text comes with a later one."""
        self._reason = ""
        self._delta = b""
        """The event of a token, up to its number."""

    @property
    def resumable(self) -> bool:
        """Whether another replica can go on with its stream: the last event has the log probabilities of all tokens, which only this one knows."""
        return not self._with_logprobs

    def whole(self, answers: Sequence[TokenUpdate], used: Mapping[str, Any]) -> bytes:
        """The response."""
        for update in answers:
            self.more(0, update, 0)
        return _encode(self._ended(used))

    def first(self, _index: int) -> bytes:
        """The events before the first token."""
        return self._lifecycle("response.created") + self._lifecycle("response.in_progress")

    def more(self, _index: int, update: TokenUpdate, _at: int) -> bytes:
        """The events of a token: none, if it has no text yet."""
        events: list[bytes] = []
        if update.text or (update.reason and not (update.calls or self._output)):
            self._grow(update, events)
        elif self._with_logprobs:
            self._unsaid += update.tokens
        for call in update.calls:
            self._unsaid.clear()  # they are the call
            self._close(events, "completed")
            self._called(call, events)
        if update.reason is not None:
            self._reason = update.reason
            self._close(events, "incomplete" if update.reason == "length" else "completed")
        return b"".join(events)

    def last(self, used: Mapping[str, Any]) -> bytes:
        """The last event, with the whole response."""
        response = self._ended(used)
        return self._event(f"response.{response['status']}", {"response": response})

    def failed(self, problem: Problem) -> bytes:
        """The last event if the answer has failed."""
        code = "rate_limit_exceeded" if problem.status == 429 else "server_error"
        error = {"code": code, "message": problem.detail}
        self._response |= {"status": "failed", "error": error, "output": self._output}
        return self._lifecycle("response.failed")

    def _ended(self, used: Mapping[str, Any]) -> dict[str, Any]:
        cut = self._reason == "length"
        return {
            **self._response,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": self._output,
            "usage": {
                "input_tokens": used["prompt_tokens"],
                "input_tokens_details": {**used["prompt_tokens_details"], "cache_write_tokens": 0},
                "output_tokens": used["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": used["total_tokens"],
            },
        }

    # -- items -------------------------------------------------------------------------------------

    def _grow(self, update: TokenUpdate, events: list[bytes]) -> None:
        item = self._open
        if item is None:
            item = self._open = _Item(len(self._output), self._identity)
            place = {"item_id": item.id, "output_index": item.at, "content_index": 0}
            self._added(item, events)
            events.append(self._event("response.content_part.added", {**place, "part": self._part(item)}))
            said = _encode({"type": "response.output_text.delta", **place})
            self._delta = b"event: response.output_text.delta\ndata: " + said[:-1]
        item.text += update.text
        logprobs: list[Any] = []
        if self._with_logprobs:
            tokens = [*self._unsaid, *update.tokens]
            self._unsaid.clear()
            item.tokens += tokens
            logprobs = likely_tokens(tokens)
        if update.text:
            parts = (self._delta, _encode(update.text), _encode(logprobs), self._number)
            events.append(b'%b,"delta":%b,"logprobs":%b,"sequence_number":%d}\n\n' % parts)
            self._number += 1

    def _close(self, events: list[bytes], status: str) -> None:
        """The message has all of its text."""
        item, self._open = self._open, None
        if item is None:
            return
        item.tokens += self._unsaid
        self._unsaid.clear()
        place = {"item_id": item.id, "output_index": item.at, "content_index": 0}
        part = self._part(item)
        text = {"text": item.text, "logprobs": part["logprobs"]}
        events.append(self._event("response.output_text.done", {**place, **text}))
        events.append(self._event("response.content_part.done", {**place, "part": part}))
        self._done(item, item.shown(status, [part]), events)

    def _called(self, call: ToolCall, events: list[bytes]) -> None:
        item = _Item(len(self._output), self._identity, call)
        place = {"item_id": item.id, "output_index": item.at}
        name = "response.function_call_arguments"
        self._added(item, events)
        events.append(self._event(f"{name}.delta", {**place, "delta": call.arguments}))
        events.append(self._event(f"{name}.done", {**place, "name": call.name, "arguments": call.arguments}))
        self._done(item, item.shown("completed"), events)

    def _added(self, item: _Item, events: list[bytes]) -> None:
        said = {"output_index": item.at, "item": item.shown("in_progress")}
        events.append(self._event("response.output_item.added", said))

    def _done(self, item: _Item, shown: dict[str, Any], events: list[bytes]) -> None:
        self._output.append(shown)
        events.append(self._event("response.output_item.done", {"output_index": item.at, "item": shown}))

    def _part(self, item: _Item) -> dict[str, Any]:
        logprobs = likely_tokens(item.tokens)
        return {"type": "output_text", "text": item.text, "annotations": [], "logprobs": logprobs}

    # -- events ------------------------------------------------------------------------------------

    def _lifecycle(self, kind: str) -> bytes:
        return self._event(kind, {"response": self._response})

    def _event(self, kind: str, said: Mapping[str, Any]) -> bytes:
        data = _encode({"type": kind, **said, "sequence_number": self._number})
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)
