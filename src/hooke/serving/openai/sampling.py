"""Which token comes next, by the model's logits and what the client asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["ChosenToken", "LikelyToken", "TokenChooser", "TokenSampling"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSampling:
    """How tokens are chosen, with OpenAI's names and defaults. Of equal logits the first token is the highest."""

    temperature: float = 1.0
    """0 chooses the highest logit."""
    top_p: float = 1.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    """How many likely tokens to tell beside each chosen one; None: no probabilities."""
    ignore_end: bool = False
    """The tokens that end an answer are like others: it has as many as were asked for."""


LEAST_LOG = -9999.0
"""Of a token that cannot come: JSON has no infinity."""


class LikelyToken(NamedTuple):
    """A token with its log probability and its text."""

    token: int
    logprob: float
    text: str = ""


class ChosenToken(NamedTuple):
    """A token, its log probability, and the likeliest ones; without probabilities and texts where nobody asked for them."""

    token: int
    logprob: float = 0.0
    text: str = ""
    likely: tuple[LikelyToken, ...] = ()


class TokenChooser:
    """Chooses the tokens of one answer."""

    def __init__(self, sampling: TokenSampling) -> None:
        self._sampling = sampling
        self._draw = np.random.default_rng(sampling.seed) if sampling.temperature else None
        bent = sampling.logit_bias or sampling.frequency_penalty or sampling.presence_penalty
        biases = {token: bias for token, bias in sampling.logit_bias.items() if token >= 0}
        self._biased = np.fromiter(biases, dtype=np.int64, count=len(biases))
        self._biases = np.fromiter(biases.values(), dtype=np.float64, count=len(biases))
        self._plain = not sampling.temperature and not bent

    def choose(
        self,
        logits: NDArray[np.floating],
        tokens: Sequence[int],
        prompt: int,
        allowed: NDArray[np.intp] | None = None,
    ) -> ChosenToken:
        """The next token by its logits (vocabulary,), after `tokens`, of which the first `prompt` are those of the prompt; one of the `allowed` ones.

        Log probabilities are of the model's own logits, as vLLM and OpenAI tell them: before temperature, `top_p` and penalties.
        Raises ValueError for logits that are not numbers.
        """
        asked = self._sampling
        bent = logits if self._plain else self._bent(logits, tokens, prompt)
        token = self._drawn(bent) if allowed is None else int(allowed[self._drawn(bent[allowed])])
        if token >= logits.size or math.isnan(logits[token]):
            raise ValueError("step returned logits that are not numbers")
        if asked.logprobs is None:
            return ChosenToken(token)
        logs = logits.astype(np.float64)
        logs -= logs.max()
        logs -= np.log(np.exp(logs).sum())
        likely = np.argsort(-logs, kind="stable")[: asked.logprobs]
        logs = np.maximum(logs, LEAST_LOG)
        told = tuple(LikelyToken(int(each), float(logs[each])) for each in likely)
        return ChosenToken(token, float(logs[token]), likely=told)

    def skip(self) -> None:
        """The next token was chosen elsewhere, as `choose` would have: what comes after it is drawn as it would be here."""
        if self._draw is not None:
            self._draw.random()

    def _bent(self, logits: NDArray[np.floating], tokens: Sequence[int], prompt: int) -> NDArray[np.float64]:
        """The logits after penalties and biases."""
        asked = self._sampling
        made = logits.astype(np.float64)
        if len(tokens) > prompt and (asked.frequency_penalty or asked.presence_penalty):
            said, counts = np.unique(np.asarray(tokens[prompt:]), return_counts=True)
            made[said] -= asked.frequency_penalty * counts + asked.presence_penalty
        if self._biased.size:
            known = self._biased < made.size
            made[self._biased[known]] += self._biases[known]
        return made

    def _drawn(self, logits: NDArray[np.floating]) -> int:
        asked = self._sampling
        if self._draw is None:
            return int(logits.argmax())
        shares = np.exp((logits - logits.max()) / asked.temperature)
        if asked.top_p < 1:
            order = np.argsort(-shares, kind="stable")
            ends = np.cumsum(shares[order]) / shares.sum()
            shares[order[int(np.searchsorted(ends, asked.top_p)) + 1 :]] = 0
        ends = np.cumsum(shares)
        return int(np.searchsorted(ends, self._draw.random() * ends[-1], side="right"))
