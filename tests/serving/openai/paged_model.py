"""A language model for tests: its next token depends on all tokens before it, which it reads back from the pages that it was given."""

import hashlib
from typing import Any

import numpy as np

from hooke import TokenLimits, TokenPiece, UsageError, service

VOCABULARY = 260
END = 256
"""Tokens are bytes, but for this one."""


def logits_after(tokens: list[int]) -> np.ndarray:
    """A fixed function of all tokens, in float64; the end is likelier the longer the text is."""
    digest = hashlib.blake2b(np.asarray(tokens, dtype=np.int64).tobytes(), digest_size=8).digest()
    made = np.random.default_rng(int.from_bytes(digest, "little")).normal(size=VOCABULARY)
    made[128:END] -= 100.0  # ASCII
    made[:32] -= 100.0
    made[257:] -= 100.0
    made[END] += 1.0
    return made


def greedy(prompt: list[int], most: int) -> tuple[str, str]:
    """The answer as the model itself gives it: text, and why it ended."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + most:
        token = int(np.argmax(logits_after(tokens)))
        if token == END:
            return bytes(tokens[len(prompt) :]).decode(), "stop"
        tokens.append(token)
    return bytes(tokens[len(prompt) :]).decode(), "length"


def chat_tokens(messages: list[dict[str, Any]]) -> list[int]:
    return list("".join(f"<{each['role']}>{each['content']}" for each in messages).encode())


@service(protocol="openai", timeout="20s")
class Paged:
    """Keeps the tokens themselves where others have keys and values."""

    end = frozenset({END})
    vocabulary = VOCABULARY

    def setup(self, slots: int = 8, pages: int = 200, context: int = 400, step_tokens: int = 64) -> None:
        self.limits = TokenLimits(
            slots=slots,
            step_tokens=step_tokens,
            context=context,
            pages=pages,
            page_tokens=8,
            max_waiting=1000,
        )
        self.memory = np.full((pages, 8), -1, dtype=np.int64)
        self.undecodable = b"\0"
        self.steps: list[int] = []
        self.computed = 0

    def encode(self, prompt: str | list[dict[str, Any]]) -> list[int]:
        if isinstance(prompt, str):
            if "forbidden" in prompt:
                raise UsageError("this prompt is not answered", fix="ask for something else")
            return [0.5, 1.5] if prompt == "odd" else list(prompt.encode())
        return chat_tokens(prompt)

    def decode(self, tokens: list[int]) -> str:
        if self.undecodable in bytes(token for token in tokens if token < END):
            raise RuntimeError("no such letter")
        return bytes(token for token in tokens if token < END).decode("utf-8", "replace")

    def step(self, pieces: list[TokenPiece]) -> np.ndarray:
        self.steps.append(len(pieces))
        rows = []
        for piece in pieces:
            places = np.arange(piece.start, piece.start + len(piece.tokens))
            pages = np.asarray(piece.pages)
            self.memory[pages[places // 8], places % 8] = piece.tokens
            self.computed += len(piece.tokens)
            if piece.gives_token:
                whole = np.arange(places[-1] + 1)
                rows.append(logits_after(self.memory[pages[whole // 8], whole % 8].tolist()))
        if rows and "explode" in bytes(t for t in self.memory[pages[0]].tolist() if 0 <= t < 256).decode(
            "latin-1"
        ):
            raise RuntimeError("secret")
        return np.asarray(rows).reshape(-1, VOCABULARY)

    def embed(self, texts: list[str]) -> np.ndarray:
        return np.asarray([[len(text), text.count("a"), 0.5] for text in texts])
