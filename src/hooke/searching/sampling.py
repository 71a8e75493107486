"""Optuna's ask-and-tell interface: an in-memory study in the driver. Workers never see it.

A built-in sampler is recreated for each trial, seeded by the search's seed and the trial's number. Its parameters follow only from
these and from earlier results, so a killed search continues as if it had not been killed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from importlib import import_module
from typing import Any

from hooke.base.distributions import install_command
from hooke.base.errors import MissingExtra, UsageError
from hooke.searching.space import Choice, Dimension

__all__ = ["PRUNERS", "SAMPLERS", "Asked", "Sampling"]

SAMPLERS = ("tpe", "random")
PRUNERS = ("none", "median", "asha")
DIRECTIONS = ("minimize", "maximize")

Asked = dict[str, float]
"""Parameter -> value; for a choice, its index."""


class Sampling:
    """The Optuna study of one search. `sampler` and `pruner` are names or Optuna objects.

    Raises MissingExtra if Optuna is not installed, UsageError for unknown names.
    """

    def __init__(
        self, space: Mapping[str, Dimension], *, direction: str, sampler: Any, pruner: Any, seed: int
    ) -> None:
        if direction not in DIRECTIONS:
            raise UsageError(f"direction={direction!r} is not valid", fix=f"valid: {', '.join(DIRECTIONS)}")
        self._optuna = _optuna()
        self._seed = seed
        self._sampler = _named(sampler, SAMPLERS, "sampler", "sample_independent")
        self._distributions = {name: self._distribution(each) for name, each in space.items()}
        with self._quiet():
            self._study = self._optuna.create_study(
                storage=self._optuna.storages.InMemoryStorage(),
                sampler=self._fresh(0),
                pruner=self._pruner(pruner),
                direction=direction,
            )
        self._trials: dict[int, Any] = {}
        self._reported: dict[int, set[int]] = {}

    def ask(self, trial: int, asked: Asked | None = None) -> Asked:
        """The parameters of a trial; with `asked`, these are used."""
        with self._quiet():
            if asked is not None:
                self._study.enqueue_trial(dict(asked))
            self._study.sampler = self._fresh(trial)
            made = self._study.ask(self._distributions)
        self._trials[trial] = made
        return dict(made.params)

    def report(self, trial: int, points: Iterable[tuple[int, float]]) -> bool:
        """Report (step, value) pairs of a running trial's metric; returns whether the pruner stops the trial.

        The pruner decides after each step, as it would inside the task. A step counts once; negative steps are ignored.
        """
        made, seen = self._trials[trial], self._reported.setdefault(trial, set())
        for step, value in points:
            if step >= 0 and step not in seen:
                seen.add(step)
                made.report(value, step)
                if made.should_prune():
                    return True
        return False

    def tell(self, trial: int, status: str, value: float | None) -> None:
        """Report the end of a trial: `finished` with its value, `pruned` or `failed`."""
        state = {"finished": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}[status]
        made = self._trials.pop(trial)
        states = self._optuna.trial.TrialState
        with self._quiet():
            self._study.tell(made, value if status == "finished" else None, state=states[state])

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Suppress Optuna's log and warnings."""
        logging = self._optuna.logging
        before = logging.get_verbosity()
        logging.set_verbosity(logging.WARNING)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.set_verbosity(before)

    def _fresh(self, trial: int) -> Any:
        digest = blake2b(f"{self._seed}:{trial}".encode(), digest_size=4).digest()
        seed = int.from_bytes(digest, "little")
        samplers = self._optuna.samplers
        makers: dict[str, Callable[[], Any]] = {
            "tpe": lambda: samplers.TPESampler(seed=seed),
            "random": lambda: samplers.RandomSampler(seed=seed),
        }
        return makers[self._sampler]() if isinstance(self._sampler, str) else self._sampler

    def _pruner(self, pruner: Any) -> Any:
        pruner = _named(pruner, PRUNERS, "pruner", "prune")
        pruners = self._optuna.pruners
        makers: dict[str, Callable[[], Any]] = {
            "none": pruners.NopPruner,
            "median": pruners.MedianPruner,
            "asha": pruners.SuccessiveHalvingPruner,
        }
        return makers[pruner]() if isinstance(pruner, str) else pruner

    def _distribution(self, dimension: Dimension) -> Any:
        kinds = self._optuna.distributions
        if isinstance(dimension, Choice):
            return kinds.CategoricalDistribution(tuple(range(len(dimension.values))))
        low, high, log = dimension.low, dimension.high, dimension.log
        if dimension.whole:
            return kinds.IntDistribution(int(low), int(high), log=log, step=dimension.step)
        return kinds.FloatDistribution(float(low), float(high), log=log)


def _optuna() -> Any:
    try:
        return import_module("optuna")
    except ImportError as error:
        raise MissingExtra(
            "a search needs Optuna, which is not installed", why=str(error), fix=install_command("search")
        ) from error


def _named(given: Any, names: tuple[str, ...], what: str, method: str) -> Any:
    """A checked name, or an Optuna object."""
    if isinstance(given, str):
        if given not in names:
            raise UsageError(
                f"{what}={given!r} is not valid", fix=f"valid: {', '.join(names)}, or an Optuna {what}"
            )
        return given
    if not callable(getattr(given, method, None)):
        raise UsageError(
            f"{what}={given!r} is not valid", fix=f"valid: {', '.join(names)}, or an Optuna {what}"
        )
    return given
