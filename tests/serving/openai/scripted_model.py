"""A language model that says what its prompt tells it to say, or else anything at all; it takes tools, and its tokens have bytes."""

import hashlib
import json
from typing import Any

import numpy as np

from hooke import TokenLimits, TokenPiece, service

CONTEXT = 4000
END, ASKED = 256, 257
"""The end of an answer, and of a prompt. Other tokens are bytes, or several."""
LONGER = (
    b"<tool_call>",
    b"</tool_call>",
    b'{"',
    b'": ',
    b'"}',
    b", ",
    b'"name',
    b"ment",
    b"\n</",
    b"tr",
    b"ue",
)
TOKEN_BYTES = (*(bytes([each]) for each in range(256)), b"", b"", *LONGER, b"")


def tokens_of(text: str) -> list[int]:
    """By the longest token that fits."""
    left, made = text.encode(), list[int]()
    while left:
        fits = [at for at, token in enumerate(LONGER) if left.startswith(token)]
        made.append(258 + max(fits, key=lambda at: len(LONGER[at])) if fits else left[0])
        left = left[len(TOKEN_BYTES[made[-1]]) :]
    return made


def any_logits(tokens: list[int], seed: int = 0, size: int = len(TOKEN_BYTES)) -> np.ndarray:
    """Random ones, a fixed function of all tokens."""
    digest = hashlib.blake2b(np.asarray([seed, *tokens], dtype=np.int64).tobytes(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little")).normal(size=size) * 3


@service(protocol="openai", timeout="20s")
class Scripted:
    """Says what stands behind `say:` in the last message."""

    end = frozenset({END})
    token_bytes = TOKEN_BYTES

    def setup(self) -> None:
        self.limits = TokenLimits(slots=8, step_tokens=4000, context=CONTEXT, pages=8, page_tokens=CONTEXT)
        self.memory = np.zeros((8, CONTEXT), dtype=np.int64)
        self.seen: tuple[Any, Any] = (None, None)

    def encode(self, prompt: Any, tools: Any = None) -> list[int]:
        self.seen = (prompt, tools)
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        return [*tokens_of(text), ASKED]

    def decode(self, tokens: list[int]) -> str:
        return b"".join(TOKEN_BYTES[each] for each in tokens).decode("utf-8", "replace")

    def step(self, pieces: list[TokenPiece]) -> np.ndarray:
        rows = []
        for piece in pieces:
            mine = self.memory[piece.pages[0]]
            mine[piece.start : piece.start + len(piece.tokens)] = piece.tokens
            if piece.gives_token:
                rows.append(self._next(mine[: piece.start + len(piece.tokens)].tolist()))
        return np.asarray(rows).reshape(-1, len(TOKEN_BYTES))

    def _next(self, tokens: list[int]) -> np.ndarray:
        asked = tokens.index(ASKED)
        _, say, script = self.decode(tokens[:asked]).partition("say:")
        logits = any_logits(tokens)
        if say:
            said = [*tokens_of(script), END]
            logits[said[min(len(tokens) - asked - 1, len(said) - 1)]] += 1000
        return logits


class Answering:
    """The same model without what makes it take tools and schemas."""

    end = Scripted.end
    setup, decode, step, _next = Scripted.setup, Scripted.decode, Scripted.step, Scripted._next

    def encode(self, prompt: Any) -> list[int]:
        return Scripted.encode(self, prompt)


Plain = service(protocol="openai", timeout="20s")(type("Plain", (Answering,), {}))


def said_call(name: str, /, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"
