"""Requests and answers of the protocol. What is not supported is refused by name; fields that nobody knows are ignored, as clients send many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgspec

from hooke.serving.openai.constraints import read_format
from hooke.serving.openai.sampling import ChosenToken, LikelyToken, TokenSampling
from hooke.serving.openai.token_engine import TokenUpdate
from hooke.serving.openai.tools import AskedTools, ToolCall, read_call, read_tools
from hooke.serving.problems import Problem, WrongField

__all__ = [
    "AnswerWriter",
    "AskedAnswer",
    "ChatBody",
    "CompletionBody",
    "EmbeddingsBody",
    "bounded",
    "error_body",
    "in_range",
    "likely_tokens",
    "read_body",
    "read_chat",
    "read_completion",
    "read_embeddings",
    "text_of",
    "usage",
]

S = TypeVar("S", bound=msgspec.Struct)
MOST_ANSWERS, MOST_LIKELY, MOST_STOPS, MOST_TEXTS = 128, 20, 4, 2048
TOKEN_DIGITS = 10
MOST_BIASES = 1024
"""Entries of a `logit_bias`, which are added with each token."""
_encode = msgspec.json.Encoder().encode
TEXT_PARTS = ("text", "input_text", "output_text")
DEFAULT_COMPLETION = 16
"""Tokens of an answer of `/v1/completions`, as OpenAI has it."""


class StreamOptions(msgspec.Struct):
    """What a stream says beside its tokens."""

    include_usage: bool = False


class _Asked(msgspec.Struct, kw_only=True):
    """What both kinds of requests have."""

    model: str
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    max_tokens: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    user: str | None = None
    ignore_eos: bool | None = None
    """As vLLM and SGLang have it, for load tests."""


class ChatBody(_Asked, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    response_format: Any = None


class CompletionBody(_Asked, kw_only=True):
    """`POST /v1/completions`."""

    prompt: str | list[Any]
    logprobs: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None


class EmbeddingsBody(msgspec.Struct, kw_only=True):
    """`POST /v1/embeddings`."""

    model: str
    input: str | list[Any]
    encoding_format: str | None = "float"
    dimensions: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedAnswer:
    """A request, as the engine takes it. Each prompt is answered `n` times."""

    model: str
    chat: bool
    prompts: Sequence[str | list[dict[str, Any]] | list[int]]
    n: int
    most: int | None
    """Tokens of an answer; None: as many as fit."""
    stream: bool
    with_usage: bool
    stop: tuple[str, ...]
    sampling: TokenSampling
    user: str
    tools: AskedTools | None = None
    schema: dict[str, Any] | None = None
    """The JSON Schema that answers must follow."""
    schema_field: str = "response_format"
    """Where the request has it."""


def read_chat(data: bytes) -> AskedAnswer:
    """A request for chat. Raises Problem (400)."""
    body = read_body(data, ChatBody)
    if not body.messages:
        raise WrongField("messages", "must not be empty")
    messages = [_message(at, message) for at, message in enumerate(body.messages)]
    if body.functions:
        raise WrongField("functions", "is not supported; use tools")
    tools = read_tools(body.tools, body.tool_choice, parallel=body.parallel_tool_calls)
    schema = read_format(body.response_format, "response_format")
    if body.top_logprobs is not None and not body.logprobs:
        raise WrongField("top_logprobs", "it needs logprobs=true")
    likely = bounded(body.top_logprobs, "top_logprobs", 0, MOST_LIKELY) or 0
    name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    most = bounded(getattr(body, name), name, 1, 2**31)
    asked = _asked(body, [messages], most, chat=True, logprobs=likely if body.logprobs else None)
    return replace(asked, tools=tools, schema=schema)


def read_completion(data: bytes) -> AskedAnswer:
    """A request for a completion of one prompt or several. Raises Problem (400)."""
    body = read_body(data, CompletionBody)
    if body.echo or body.suffix or (body.best_of or 1) > (body.n or 1):
        named = "echo" if body.echo else "suffix" if body.suffix else "best_of"
        raise WrongField(named, "this service does not support it")
    most = DEFAULT_COMPLETION if body.max_tokens is None else bounded(body.max_tokens, "max_tokens", 1, 2**31)
    logprobs = bounded(body.logprobs, "logprobs", 0, MOST_LIKELY)
    return _asked(body, _prompts(body.prompt), most, chat=False, logprobs=logprobs)


def read_embeddings(data: bytes) -> tuple[list[str], EmbeddingsBody]:
    """A request for embeddings, with its texts. Raises Problem (400)."""
    body = read_body(data, EmbeddingsBody)
    if body.encoding_format not in ("float", "base64", None):
        raise WrongField("encoding_format", "must be float or base64")
    if body.dimensions is not None:
        raise WrongField("dimensions", "this service does not support it")
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not texts or not all(isinstance(each, str) and each for each in texts):
        raise WrongField(
            "input", "must be a string or a list of strings that are not empty; tokens are not supported"
        )
    if len(texts) > MOST_TEXTS:
        raise WrongField("input", f"has {len(texts)} texts; at most {MOST_TEXTS} are possible")
    return texts, body


def read_body(data: bytes, kind: type[S]) -> S:
    """The body of a request. Raises WrongField."""
    try:
        return msgspec.json.decode(data, type=kind)
    except RecursionError:
        raise WrongField("", "it is nested too deeply") from None
    except msgspec.DecodeError as error:
        what, _, path = str(error).partition(" - at `$")
        raise WrongField(path.strip("`.") or _field_in(what), what) from None


def _message(at: int, message: dict[str, Any]) -> dict[str, Any]:
    """A message whose content is text, and whose calls have objects as arguments."""
    where, content = f"messages[{at}]", message.get("content")
    if not isinstance(message.get("role"), str):
        raise WrongField(f"{where}.role", "is missing or is not a string")
    if message.get("tool_calls") is not None:
        calls = message["tool_calls"]
        if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
            raise WrongField(f"{where}.tool_calls", "must be a list of calls")
        calls = [
            read_call(call.get("id"), call.get("function"), f"{where}.tool_calls[{number}].function")
            for number, call in enumerate(calls)
        ]
        text = "" if content is None else text_of(content, f"{where}.content")
        return {**message, "content": text, "tool_calls": calls}
    return {**message, "content": text_of(content, f"{where}.content")}


def text_of(content: Any, where: str) -> str:
    """Text, also in parts, which are joined by line breaks, as vLLM does. Raises WrongField."""
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") in TEXT_PARTS else None
            for part in content
        ]
        if not all(isinstance(part, str) for part in parts):
            raise WrongField(where, "has a part that is not text, which this service does not support")
        content = "\n".join(map(str, parts))
    if not isinstance(content, str):
        raise WrongField(where, "is missing or is not text")
    return content


def _field_in(what: str) -> str:
    return what.split("`")[-2] if "required field" in what else ""


def _asked(
    body: _Asked, prompts: Sequence[Any], most: int | None, *, chat: bool, logprobs: int | None
) -> AskedAnswer:
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    if len(stop) > MOST_STOPS or not all(stop):
        raise WrongField("stop", f"must be at most {MOST_STOPS} non-empty strings")
    if body.stream_options is not None and not body.stream:
        raise WrongField("stream_options", "it needs stream=true")
    sampling = TokenSampling(
        temperature=in_range(body.temperature, "temperature", 0, 2, 1.0),
        top_p=in_range(body.top_p, "top_p", 0, 1, 1.0),
        seed=body.seed if body.seed is None else body.seed % 2**63,
        frequency_penalty=in_range(body.frequency_penalty, "frequency_penalty", -2, 2, 0.0),
        presence_penalty=in_range(body.presence_penalty, "presence_penalty", -2, 2, 0.0),
        logit_bias=_biases(body.logit_bias or {}),
        logprobs=logprobs,
        ignore_end=bool(body.ignore_eos),
    )
    return AskedAnswer(
        model=body.model,
        chat=chat,
        prompts=prompts,
        n=bounded(body.n, "n", 1, MOST_ANSWERS) or 1,
        most=most,
        stream=bool(body.stream),
        with_usage=body.stream_options is not None and body.stream_options.include_usage,
        stop=stop,
        sampling=sampling,
        user=body.user or "",
    )


def _prompts(prompt: str | list[Any]) -> Sequence[Any]:
    if isinstance(prompt, str):
        return [prompt]
    kinds = {type(each) for each in prompt}
    if kinds == {int}:
        prompt, kinds = [prompt], {list}
    tokens = kinds == {list} and all(each and {type(token) for token in each} == {int} for each in prompt)
    if tokens and any(not 0 <= token < 2**31 for each in prompt for token in each):
        raise WrongField("prompt", "has a token id that no model has")
    if kinds == {str} or tokens:
        return prompt
    raise WrongField("prompt", "must be a string, a list of strings, or non-empty lists of token ids")


def _biases(given: Mapping[str, float]) -> dict[int, float]:
    if len(given) > MOST_BIASES:
        raise WrongField("logit_bias", f"has {len(given)} entries; at most {MOST_BIASES} are allowed")
    if not all(key.isascii() and key.isdecimal() and len(key) <= TOKEN_DIGITS for key in given):
        raise WrongField("logit_bias", "keys must be token ids")
    return {int(key): in_range(value, "logit_bias", -100, 100, 0.0) for key, value in given.items()}


def bounded(value: int | None, name: str, low: int, high: int) -> int | None:
    """The value. Raises WrongField if it is not within bounds."""
    if value is not None and not low <= value <= high:
        raise WrongField(name, f"{value} is not between {low} and {high}")
    return value


def in_range(value: float | None, name: str, low: float, high: float, default: float) -> float:
    """The value, or the default. Raises WrongField if it is not within bounds."""
    if value is None:
        return default
    if not low <= value <= high:
        raise WrongField(name, f"{value:g} is not between {low:g} and {high:g}")
    return value


# --- Errors, as OpenAI's clients read them.

_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


class _Error(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str | None


def error_body(problem: Problem) -> bytes:
    """A problem as `{"error": {"message", "type", "param", "code"}}`."""
    kind = _KINDS.get(problem.status, "server_error" if problem.status >= 500 else "invalid_request_error")
    code = problem.reason if "_" in problem.reason else _CODES.get(problem.status)
    field = problem.field if isinstance(problem, WrongField) else None
    return msgspec.json.encode({"error": _Error(problem.detail, kind, field or None, code)})


# --- Answers, whole or as server-sent events.


def usage(prompt: int, answer: int, cached: int) -> dict[str, Any]:
    """The count of tokens. `cached` ones of the prompt were in memory."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


_CHOICE_END = b',"logprobs":null,"finish_reason":null}]}\n\n'
_DELTA_END = b"}" + _CHOICE_END
"""What follows the text of a token."""


class AnswerWriter:
    """Writes the answer to one request of chat or completions."""

    resumable = True
    """Whether another replica can go on with its stream."""

    def __init__(self, asked: AskedAnswer, identity: str, created: int) -> None:
        """`created`: when the request came, in seconds since 1970."""
        self._asked = asked
        self.created = created
        self.n = asked.n
        """Answers to each prompt."""
        kind = "chat.completion" if asked.chat else "text_completion"
        self._head: dict[str, Any] = {
            "id": f"{'chatcmpl' if asked.chat else 'cmpl'}-{identity}",
            "object": kind,
            "created": created,
            "model": asked.model,
        }
        self._chunk = self._head | ({"object": "chat.completion.chunk"} if asked.chat else {})
        if asked.with_usage:
            self._chunk["usage"] = None
        self._begin = b"data: " + msgspec.json.encode(self._chunk)[:-1] + b',"choices":['
        self._text_begins: dict[int, bytes] = {}
        """The event of a text up to that, by the number of the answer: it is the same for each token."""
        self._calls: dict[int, int] = {}
        """Calls of tools so far, by the number of the answer."""

    def whole(self, answers: Sequence[TokenUpdate], used: Mapping[str, Any]) -> bytes:
        """All answers in their order."""
        made = [
            {
                "index": index,
                **({"message": _message_of(answer)} if self._asked.chat else {"text": answer.text}),
                "logprobs": self._logprobs(answer.tokens, 0),
                "finish_reason": answer.reason,
            }
            for index, answer in enumerate(answers)
        ]
        return msgspec.json.encode({**self._head, "choices": made, "usage": used})

    def first(self, index: int) -> bytes:
        """The event before the first token of a chat's answer; empty for a completion."""
        return self._event(index, {"role": "assistant", "content": ""}) if self._asked.chat else b""

    def more(self, index: int, update: TokenUpdate, at: int) -> bytes:
        """The event of a token, whose text begins `at` so many letters into the answer."""
        text, tokens, reason, calls, _ = update
        if reason is None and not calls and self._asked.sampling.logprobs is None:
            begin = self._text_begins.get(index) or self._text_begin(index)
            return begin + _encode(text) + (_DELTA_END if self._asked.chat else _CHOICE_END)
        logprobs = self._logprobs(tokens, at)
        if not self._asked.chat:
            return self._event(index, text, logprobs, reason)
        delta: dict[str, Any] = {"content": text} if text or not (reason or calls) else {}
        if calls:
            before = self._calls.get(index, 0)
            self._calls[index] = before + len(calls)
            delta["tool_calls"] = [{"index": before + at, **_call_of(call)} for at, call in enumerate(calls)]
        return self._event(index, delta, logprobs, reason)

    def last(self, used: Mapping[str, Any]) -> bytes:
        """The end of the stream, after the count of tokens if it was asked for."""
        counted = (
            _server_sent({**self._chunk, "choices": [], "usage": used}) if self._asked.with_usage else b""
        )
        return counted + b"data: [DONE]\n\n"

    def failed(self, problem: Problem) -> bytes:
        """An error after the stream has begun."""
        return b"data: " + error_body(problem) + b"\n\n"

    def _text_begin(self, index: int) -> bytes:
        field = b'"delta":{"content":' if self._asked.chat else b'"text":'
        made = self._text_begins[index] = b'%b{"index":%d,%b' % (self._begin, index, field)
        return made

    def _event(self, index: int, said: Any, logprobs: Any = None, reason: str | None = None) -> bytes:
        """An event with one choice."""
        return b'%b{"index":%d,"%b":%b,"logprobs":%b,"finish_reason":%b}]}\n\n' % (
            self._begin,
            index,
            b"delta" if self._asked.chat else b"text",
            _encode(said),
            b"null" if logprobs is None else _encode(logprobs),
            b"null" if reason is None else _encode(reason),
        )

    def _logprobs(self, tokens: Sequence[ChosenToken], at: int) -> dict[str, Any] | None:
        if self._asked.sampling.logprobs is None:
            return None
        if self._asked.chat:
            return {"content": likely_tokens(tokens), "refusal": None}
        offsets = [at + sum(len(each.text) for each in tokens[:number]) for number in range(len(tokens))]
        return {
            "tokens": [each.text for each in tokens],
            "token_logprobs": [each.logprob for each in tokens],
            "top_logprobs": [_by_text(each) for each in tokens],
            "text_offset": offsets,
        }


def _message_of(answer: TokenUpdate) -> dict[str, Any]:
    if not answer.calls:
        return {"role": "assistant", "content": answer.text}
    return {
        "role": "assistant",
        "content": answer.text or None,
        "tool_calls": [_call_of(call) for call in answer.calls],
    }


def _call_of(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def likely_tokens(tokens: Sequence[ChosenToken]) -> list[dict[str, Any]]:
    """Tokens with their log probabilities, and those of the likeliest ones."""
    return [{**_told(chosen), "top_logprobs": [_told(each) for each in chosen.likely]} for chosen in tokens]


def _told(token: ChosenToken | LikelyToken) -> dict[str, Any]:
    """A token. A part of a letter has no text, so its bytes are not known here."""
    known = None if "\ufffd" in token.text else list(token.text.encode())
    return {"token": token.text, "logprob": token.logprob, "bytes": known}


def _by_text(chosen: ChosenToken) -> dict[str, float]:
    """The likely tokens and the chosen one; of equal texts the likeliest."""
    found: dict[str, float] = {}
    for each in (*chosen.likely, chosen):
        found.setdefault(each.text, each.logprob)
    return found


def _server_sent(value: Any) -> bytes:
    return b"data: " + _encode(value) + b"\n\n"
