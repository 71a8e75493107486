"""Answers that follow a JSON Schema or call a tool, because other tokens cannot be chosen: grammars, and masks of tokens, by llguidance."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hooke.base.distributions import install_command
from hooke.base.errors import UsageError
from hooke.serving.openai.tools import AskedTools, ToolForm
from hooke.serving.problems import Problem, WrongField

__all__ = ["TokenConstraint", "TokenConstraints", "constraining_grammar", "read_format"]

KEPT = 64
"""Compiled grammars that are kept: most requests repeat one."""
MOST_BYTES = 256 << 10
"""Of a grammar, which is about as long as the schemas in it."""
BLANKS = r"( |\n {0,40})?"
"""Blanks that JSON may have between its parts. Without a limit a model may write them for ever."""
TOO_COMPLEX = "schema_too_complex"


def read_format(format: Any, where: str, *, flat: bool = False) -> dict[str, Any] | None:
    """The JSON Schema that an answer must follow; None: any text. `flat`: as `/v1/responses` has it. Raises WrongField."""
    if format is None:
        return None
    kind = format.get("type") if isinstance(format, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema":
        raise WrongField(f"{where}.type", "must be text, json_object or json_schema")
    inner, inside = (format, where) if flat else (format.get("json_schema"), f"{where}.json_schema")
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise WrongField(f"{inside}.name", "is missing or is not a string")
    if not isinstance(inner.get("schema"), dict):
        raise WrongField(f"{inside}.schema", "is missing or is not an object")
    schema: dict[str, Any] = inner["schema"]
    return schema


def constraining_grammar(
    schema: dict[str, Any] | None, tools: AskedTools | None, form: ToolForm | None
) -> str | None:
    """What an answer must follow, as a grammar of llguidance; None: nothing. Raises WrongField for tools that cannot be forced.

    With a schema the answer is JSON or, if there are tools, calls. Else it may be text around calls, whose arguments follow their schemas.
    """
    if tools is None or form is None or not (schema is not None or tools.required or tools.strict):
        return None if schema is None else f"start: {_json(schema)}\n"
    if form.own:
        field = "tool_choice" if tools.required else "tools"
        raise WrongField(
            field, "calls cannot be forced to a schema here: the model has a form of its own for them"
        )
    names = [f"call_{at}" for at in range(len(tools.callable))]
    begin, end = (json.dumps(each) if each else "" for each in form.marks)
    rules = [f"call: {' | '.join(names)}\n"]
    for name, function in zip(names, tools.callable, strict=True):
        head = json.dumps(f'\n{{"name": "{function["name"]}", "arguments": ')
        arguments = {**function["parameters"], "type": "object"}
        rules.append(f'{name}: {head} {_json(arguments)} "}}\\n" {end}\n')
    more = ' ("\\n" calls)?' if tools.parallel else ""
    calls = f"calls: {begin} call{more}\n"
    if tools.required:
        return "".join(["start: calls\n", calls, *rules])
    if schema is not None:
        return "".join([f"start: answer | calls\nanswer: {_json(schema)}\n", calls, *rules])
    # Text ends where a mark begins.
    free = f"start: (mark call)* text\ntext: TEXT\nTEXT: /(.|\\n)*/\nmark[lazy]: TEXT {begin}\n"
    return "".join([free, *rules])


def _json(schema: Mapping[str, Any]) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": {"whitespace_pattern": BLANKS}})


class TokenConstraint:
    """What one answer must follow. Used by the model's thread only."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allowed(self, size: int) -> NDArray[np.intp]:
        """The tokens that may come next, of `size` logits: the ends among them where the answer may end. Raises Problem."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        found = np.flatnonzero(np.unpackbits(bits, bitorder="little", count=min(size, bits.size * 8)))
        if not found.size:
            raise Problem(400, "no token of the model can go on as the schema asks", reason=TOO_COMPLEX)
        return found

    def take(self, token: int) -> bool:
        """This token has come; whether nothing may follow. Raises Problem."""
        self._matcher.consume_token(token)
        self._check()
        stopped: bool = self._matcher.is_stopped()
        return stopped

    def _check(self) -> None:
        if self._matcher.is_error():
            raise Problem(400, f"the schema: {_said(self._matcher.get_error())}", reason=TOO_COMPLEX)


class TokenConstraints:
    """Makes constraints for the tokens of one model, by the text (bytes) of each. Any thread may call it.

    Creating one raises UsageError if llguidance is missing, or for an end that is not among the tokens.
    """

    def __init__(self, token_bytes: Sequence[bytes], end: Collection[int]) -> None:
        if importlib.util.find_spec("llguidance") is None:
            raise UsageError(
                "token_bytes is for answers by a JSON Schema, which need llguidance, and it is not installed",
                fix=f"{install_command('structured')}, or leave token_bytes out",
            )
        self._texts = token_bytes
        self._ends = sorted(end)
        if not self._ends or not 0 <= self._ends[0] <= self._ends[-1] < len(token_bytes):
            raise UsageError(
                f"token_bytes has {len(token_bytes)} tokens, and `end` is {self._ends}",
                fix="give the bytes of all tokens, with those that end an answer",
            )
        self._lock = threading.Lock()
        self._tokens: Any = None
        self._made: OrderedDict[bytes, Any] = OrderedDict()

    def constraint(self, grammar: str, field: str) -> TokenConstraint:
        """One for an answer. It takes up to a second for a grammar that is large or new. Raises WrongField for `field` if the grammar is not valid."""
        if len(grammar) > MOST_BYTES:
            raise WrongField(field, f"its grammar has {len(grammar)} bytes; at most {MOST_BYTES} are allowed")
        matcher = self._compiled(grammar)
        if matcher.is_error():
            raise WrongField(field, _said(matcher.get_error()))
        return TokenConstraint(matcher.deep_copy())

    def _compiled(self, grammar: str) -> Any:
        from llguidance import LLMatcher, LLTokenizer

        name = hashlib.blake2b(grammar.encode(), digest_size=16).digest()
        with self._lock:
            if self._tokens is None:
                vocabulary = _Vocabulary(self._texts, self._ends)
                # It asks for a class of its own, and uses what is here.
                self._tokens = vocabulary.made = LLTokenizer(vocabulary, eos_token=self._ends)  # type: ignore[arg-type]
            made = self._made.get(name)
            if made is not None:
                self._made.move_to_end(name)
                return made
        made = LLMatcher(self._tokens, grammar, log_level=0)
        if made.is_error():
            return made
        with self._lock:
            self._made[name] = made
            if len(self._made) > KEPT:
                self._made.popitem(last=False)
        return made


class _Vocabulary:
    """What llguidance reads of a model's tokens. Text that has no choice becomes tokens by the longest that fits."""

    is_tokenizer_wrapper = True
    bos_token_id: int | None = None

    def __init__(self, texts: Sequence[bytes], ends: Sequence[int]) -> None:
        self.tokens = [bytes(each) for each in texts]
        self.eos_token_id = ends[0]
        self.special_token_ids = list(ends)
        self.made: Any = None

    def __call__(self, text: str) -> list[int]:
        found: list[int] = self.made.greedy_tokenize(text)
        return found


def _said(error: str) -> str:
    """The first line of an error: behind it may be the state of the library."""
    return error.strip().partition("\n")[0][:300]
