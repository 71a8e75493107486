"""The driver's side of an arrival: what a machine is given to find, and whether what it found will do."""

from __future__ import annotations

import os
import secrets
import sys
from importlib.metadata import version
from pathlib import Path

import msgspec

from hooke.base.errors import HookeError, UsageError
from hooke.base.refusals import writing
from hooke.engines.arrival import Arrival, Probe, probe_bytes
from hooke.engines.environment import check_environment
from hooke.engines.mirror import Piece, write_piece
from hooke.engines.project_code import pack_code
from hooke.pipeline.engine import EngineContext
from hooke.tracking.tracker import ARTIFACTS, PREFIX

__all__ = ["Reception"]


class Reception:
    """Receives machines that the driver did not start. `close` takes away what was left for them to find."""

    def __init__(self, context: EngineContext, session: str) -> None:
        """Raises UsageError where the project's code is too large to be sent, StoreError where the store cannot be written."""
        self._context = context
        self._wanted = {"hooke": version("hooke"), **context.requires}
        nonce = secrets.token_hex(16)
        self._file = context.logs / f".{session}.probe"
        with writing("the run's logs", context.logs):
            context.logs.mkdir(parents=True, exist_ok=True)
            self._file.write_text(nonce, encoding="ascii")
        store = context.store
        self.probe = Probe(
            file=str(self._file),
            nonce=nonce,
            stored=store.put(probe_bytes(store.place)),
            code=store.put(pack_code()),
            python=os.path.realpath(sys.executable),
            names=tuple(self._wanted),
        )

    def check(self, worker: str, arrival: Arrival) -> None:
        """Raise UsageError where the machine cannot use the run's store, EnvironmentMismatch where it is unlike the driver."""
        trouble = arrival.trouble
        if not trouble and arrival.stored is not None:
            try:
                self._context.store.get(arrival.stored)
            except HookeError as error:
                trouble = f"what it stored is not here: {error.what}"
        if trouble:
            raise UsageError(
                f"the worker {worker} does not reach this run's store",
                where=self._context.store.place,
                why=trouble,
                mend='workers elsewhere need a store that all of them reach: [store] url = "s3://BUCKET/PATH" in hooke.toml, '
                "or a folder of a file system that they share, at the same path",
            )
        check_environment(worker, self._wanted, arrival.versions, allowed=self._context.allow_mismatch)

    def bring(self, piece: Piece) -> None:
        """Write what a worker's log, or what its tasks logged, has gained."""
        inside = piece.path.removeprefix("logs/")
        if inside != piece.path:
            write_piece(self._context.logs, msgspec.structs.replace(piece, path=inside))
        elif not piece.path.startswith(
            (PREFIX, f"{ARTIFACTS}/")
        ):  # the driver's own files are nobody's to write
            raise HookeError(
                f"a worker sent a piece of the file {piece.path!r}, which is none that tasks log"
            )
        elif self._context.tracking is not None:
            write_piece(self._context.tracking, piece)

    def close(self) -> None:
        """Take the file away that was to be found."""
        Path(self._file).unlink(missing_ok=True)
