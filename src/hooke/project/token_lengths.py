"""Lengths of requests to language models, and when they came: recorded ones that are shipped, or a user's own."""

from __future__ import annotations

import csv
import gzip
import os
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hooke.base.errors import UsageError
from hooke.base.formats import did_you_mean
from hooke.scaling.families import Floats

__all__ = ["TokenLengths", "asked_lengths", "known_lengths", "read_lengths"]

COLUMNS = ("prompt", "output")
_EXAMPLE = "write a header prompt,output (and t for seconds since the first, if arrivals are known), then a line for each request"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenLengths:
    """Tokens of prompts and answers (n,) in the order of arrival, and arrivals in seconds (n,), if they are known. `name` says whose."""

    name: str
    prompts: NDArray[np.int64]
    outputs: NDArray[np.int64]
    due: Floats | None = None
    left_out: int = 0
    """Requests that did not fit."""

    def __len__(self) -> int:
        return len(self.prompts)

    def scaled(self, factor: float) -> TokenLengths:
        """All lengths times a factor, at least one token each, for models with a shorter context."""
        if factor == 1:
            return self
        prompts, outputs = (
            np.maximum(np.rint(each * factor), 1).astype(int) for each in (self.prompts, self.outputs)
        )
        return replace(self, name=f"{self.name} x {factor:g}", prompts=prompts, outputs=outputs)

    def fitting(self, context: int) -> TokenLengths:
        """Those whose prompt and answer have at most so many tokens. Raises UsageError if none does."""
        fits = self.prompts + self.outputs <= context
        if not fits.any():
            least = int((self.prompts + self.outputs).min())
            raise UsageError(
                f"no request of {self.name} fits into a context of {context} tokens: the shortest has {least}",
                fix=f"scale them: --length-scale {context / float(np.quantile(self.prompts + self.outputs, 0.9)):.2g}",
            )
        return replace(
            self,
            prompts=self.prompts[fits],
            outputs=self.outputs[fits],
            due=None if self.due is None else self.due[fits],
            left_out=self.left_out + int((~fits).sum()),
        )

    def drawn(self, count: int, chance: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Prompts and outputs (count,) of random requests."""
        at = chance.integers(len(self), size=count)
        return self.prompts[at], self.outputs[at]


def known_lengths() -> list[str]:
    """The names of the shipped ones."""
    folder = files("hooke.generation").joinpath("lengths")
    return sorted(each.name[:-7] for each in folder.iterdir() if each.name.endswith(".csv.gz"))


def read_lengths(name: str) -> TokenLengths:
    """Shipped lengths by name, or those of a CSV file with the columns prompt, output and, if arrivals are known, t in seconds.

    Raises UsageError, which names the line or the known names.
    """
    if name in known_lengths():
        packed = files("hooke.generation").joinpath("lengths", f"{name}.csv.gz").read_bytes()
        table = np.loadtxt(
            gzip.decompress(packed).decode().splitlines(), delimiter=",", skiprows=1, dtype=np.int64
        )
        return TokenLengths(
            name=name, prompts=table[:, 1], outputs=table[:, 2], due=np.cumsum(table[:, 0]) / 1000
        )
    path = Path(name)
    if not path.is_file():
        known = known_lengths()
        raise UsageError(
            f"no lengths {name!r}",
            where=os.getcwd(),
            fix=f"{did_you_mean(name, known)}give a CSV file or one of: {', '.join(known)}",
        )
    return _of_file(path)


def asked_lengths(name: str | None, factor: float) -> TokenLengths | None:
    """Those of `--lengths` and `--length-scale`, None if neither was given. Raises as `read_lengths`, and UsageError for a factor alone."""
    if name is not None:
        return read_lengths(name).scaled(factor)
    if factor != 1:
        raise UsageError(
            "--length-scale has no lengths to multiply", fix="add --lengths azure-conversation, or omit it"
        )
    return None


def _of_file(path: Path) -> TokenLengths:
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", fix="give a CSV file in UTF-8") from error
    reader = csv.DictReader(text.splitlines())
    lacking = [each for each in COLUMNS if each not in (reader.fieldnames or ())]
    if lacking:
        raise UsageError(f"{path} has no column {lacking[0]!r}", fix=_EXAMPLE)
    timed = "t" in (reader.fieldnames or ())
    rows: list[tuple[float, int, int]] = []
    for row in reader:
        try:
            one = float(row["t"]) if timed else 0.0, int(row["prompt"]), int(row["output"])
        except (TypeError, ValueError):
            one = (0.0, 0, 0)
        if min(one[1:]) < 1 or not np.isfinite(one[0]):
            raise UsageError(
                f"{path}, line {reader.line_num}: needs whole numbers of tokens above 0", fix=_EXAMPLE
            )
        rows.append(one)
    if not rows:
        raise UsageError(f"{path} has no requests", fix=_EXAMPLE)
    rows.sort(key=lambda each: each[0])
    return TokenLengths(
        name=path.stem,
        prompts=np.array([prompt for _, prompt, _ in rows]),
        outputs=np.array([output for _, _, output in rows]),
        due=np.array([at - rows[0][0] for at, _, _ in rows]) if timed else None,
    )
