"""The service of the closed loop: an answer takes a fifth of a second of waiting, so that twenty replicas fit on two cores."""

from __future__ import annotations

import time

from hooke import service

ANSWER_S = 0.2


@service(replicas=(1, 24), slo="p99 < 400ms", timeout="5s", idempotent=True)
class Answers:
    """One request at a time: a replica does five a second, and no more."""

    def answer(self, number: int) -> int:
        """Twice the number."""
        time.sleep(ANSWER_S)
        return 2 * number
