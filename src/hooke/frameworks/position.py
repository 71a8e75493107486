"""Where a training loop is in a data set: epoch, step and ranks, the same for every framework. No framework is imported here."""

from __future__ import annotations

import os
from collections.abc import Mapping

from hooke.data import Shuffled

__all__ = ["LoaderPosition", "ranks_of_gang"]


def ranks_of_gang() -> tuple[int, int]:
    """This process's rank in its gang and the number of ranks; (0, 1) where there is no gang."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


class LoaderPosition:
    """The position of a loader: the batch after the last one that the training loop has taken, whatever was read ahead.

    Loaders inherit it. `rank` and `ranks` are attributes; the position is valid for any number of ranks. Raises UsageError for ranks
    that cannot share the data.
    """

    def __init__(self, data: Shuffled, rank: int, ranks: int) -> None:
        self.rank, self.ranks = rank, ranks
        self._data = data
        data.batches(0, rank, ranks, 0)  # refuses ranks that cannot share it
        self._at = self._position_of_data()

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._data.steps(self.ranks)

    @property
    def epoch(self) -> int:
        """The epoch of the next batch: at first 0, after the last batch of an epoch the next one."""
        return self._at[0]

    def set_epoch(self, epoch: int) -> None:
        """Begin this epoch with the next iteration; one that is begun already goes on."""
        if epoch != self.epoch:
            self._at = (epoch, 0)

    def _taken(self, epoch: int, steps: int) -> None:
        """The loop has taken so many steps of an epoch."""
        self._at = (epoch, steps) if steps < len(self) else (epoch + 1, 0)

    def _ended(self, epoch: int) -> None:
        """The loop was given all that there is of an epoch."""
        self._at = max(self._at, (epoch + 1, 0))

    def state_dict(self) -> dict[str, int]:
        """Where the training is: the batch after the last one that the loop has taken, and what the order depends on."""
        epoch, step = self._at
        return self._data.state_dict() | {"epoch": epoch, "step": step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where `state_dict` was called, also of another number of ranks. Raises UsageError if the state is of other data."""
        self._data.load_state_dict(state)
        self._at = self._position_of_data()

    def _position_of_data(self) -> tuple[int, int]:
        state = self._data.state_dict()
        return state["epoch"], state["step"]
