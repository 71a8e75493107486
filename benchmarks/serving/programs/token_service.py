"""A language model whose answers can be told from their prompts, and cost almost nothing.

Where others have keys and values it keeps a number for each token, made of all tokens before it: a page that was mixed up, lost or not
computed makes another answer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from hooke import TokenLimits, TokenPiece, service

END, VOCABULARY, PAGE = 0, 128, 16
STEP_S = 0.1
"""Of `Told`, whatever is in it."""
WHOLE, TIMES = (1 << 61) - 1, 6364136223846793005


def after(state: int, token: int) -> int:
    """The number of a token, by that of the one before it."""
    return (state * TIMES + token + 1) % WHOLE


def next_token(state: int) -> int:
    """A letter; or the end, once in 64 times."""
    return END if (state >> 8) % 64 == 0 else 97 + (state >> 20) % 26


def answer(prompt: str, most: int, factor: int) -> str:
    """What the model of this factor says."""
    state, said = factor, ""
    for letter in prompt.encode():
        state = after(state, letter)
    while len(said) < most and (token := next_token(state)) != END:
        said += chr(token)
        state = after(state, token)
    return said


class Model:
    """Letters are tokens."""

    end = frozenset({END})
    vocabulary = VOCABULARY

    def setup(self, model: Any = None, slots: int = 64) -> None:
        """`model` has the factor."""
        self.factor = model["factor"] if model else 2
        self.limits = TokenLimits(slots=slots, step_tokens=1024, context=1024, page_tokens=PAGE)
        self.states = [0] * (slots * 1024)

    def encode(self, prompt: str | list[dict[str, Any]]) -> list[int]:
        """The letters of a text, or of a chat's last message."""
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        return list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        """Their text."""
        return bytes(tokens).decode()

    def step(self, pieces: Sequence[TokenPiece]) -> np.ndarray:
        """A number for each token; what comes next is likelier than all else."""
        found = []
        for piece in pieces:
            at, pages = piece.start, piece.pages
            state = self.states[self._place(pages, at - 1)] if at else self.factor
            for token in piece.tokens:
                state = after(state, token)
                self.states[self._place(pages, at)] = state
                at += 1
            if piece.gives_token:
                found.append(next_token(state))
        logits = np.zeros((len(found), VOCABULARY))
        logits[range(len(found)), found] = 1.0
        return logits

    def _place(self, pages: Sequence[int], at: int) -> int:
        return pages[at // PAGE] * PAGE + at % PAGE


@service(protocol="openai", timeout="60s")
class Told(Model):
    """Takes STEP_S for a step."""

    def step(self, pieces: Sequence[TokenPiece]) -> np.ndarray:
        """As the others."""
        time.sleep(STEP_S)
        return super().step(pieces)


@service(protocol="openai", timeout="60s")
class Counted(Model):
    """Takes no longer than it needs, never ends by itself, and counts: tokens that it gave, and nanoseconds of CPU that its steps took."""

    end = frozenset()

    def setup(self, model: Any = None, slots: int = 64) -> None:
        """As the others."""
        from counting import counted

        super().setup(model, slots)
        self.counted = counted

    def step(self, pieces: Sequence[TokenPiece]) -> np.ndarray:
        """As the others."""
        began = time.thread_time_ns()
        made = super().step(pieces)
        self.counted(len(made), time.thread_time_ns() - began)
        return made


@service(protocol="openai", timeout="60s")
class Paced(Counted):
    """Waits for a millisecond in each step, as for a device."""

    def step(self, pieces: Sequence[TokenPiece]) -> np.ndarray:
        """As the others; what the waiting takes is the model's, too."""
        began = time.thread_time_ns()
        time.sleep(0.001)
        made = Model.step(self, pieces)
        self.counted(len(made), time.thread_time_ns() - began)
        return made
