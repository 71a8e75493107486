"""One process of a model, without a replica around it."""

import asyncio
import os
import signal

import pytest
from tests.services.supervisor.supervised import gone

from hooke.serving.model_process.model_client import RunningModel
from hooke.serving.model_process.wire import INLINE

pytestmark = pytest.mark.needs("processes")


def test_the_end_does_not_wait_for_one_that_takes_nothing():
    async def life():
        running = RunningModel(lambda _told: None, lambda _ending: None)
        os.kill(running.pid, signal.SIGSTOP)
        for _ in range(64):
            running.send(running.link.packed(b"x" * (INLINE - 100)))
        running.close(0.2)
        return running.pid

    assert gone([asyncio.run(life())])
