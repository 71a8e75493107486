"""Watches what a service's names mean: an alias that moves is another generation, a file that is edited is not."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from hooke.base.errors import HookeError
from hooke.project.supervising.generation import Generation, Source, pinned

__all__ = ["Aliases"]

_log = logging.getLogger("hooke")


class Aliases:
    """Looks them up every `every_s` seconds, in a thread of its own: a registry on another machine may take long."""

    def __init__(
        self,
        source: Source,
        known: Generation,
        *,
        every_s: float,
        moved: Callable[[Generation], None],
        unknown: Callable[[str], None],
        look: Callable[[Source], Generation] = pinned,
    ) -> None:
        """`moved` gets another meaning than the last one, `unknown` why nothing can be said, once for each reason; both are called in that thread.

        Whatever `look` raises, it is asked again.
        """
        self._source = source
        self._label = known.label
        self._every_s = every_s
        self._moved = moved
        self._unknown = unknown
        self._look = look
        self._said = ""
        """Why nothing could be said at the last look."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hooke-aliases", daemon=True)

    def start(self) -> None:
        """Begin, where there is something that may move."""
        if self._source.moving:
            self._thread.start()

    def close(self) -> None:
        """End; a question that is under way is not waited for."""
        self._ended.set()

    def again(self) -> None:
        """What was found last could not be used: say it again."""
        self._label = ""

    def _watch(self) -> None:
        while not self._ended.wait(self._every_s):
            try:
                found = self._look(self._source)
            except (HookeError, OSError) as error:
                self._warn(str(error).partition("\n")[0])
            except Exception as error:  # noqa: BLE001 - whatever a registry's client raises: the next look may succeed
                self._warn(f"{type(error).__name__}: {error}", error)
            else:
                self._said = ""
                if found.label != self._label:
                    self._label = found.label
                    self._moved(found)

    def _warn(self, why: str, unexpected: Exception | None = None) -> None:
        if why == self._said:
            return
        self._said = why
        self._unknown(why)
        if unexpected is not None:
            _log.warning("what the names mean cannot be looked up", exc_info=unexpected)
