"""What a replica tells its supervisor, whatever happens to it."""

import os
import resource

from tests.serving.services import Rows

from hooke.services.supervisor.control_channel import decode_from_child
from hooke.services.supervisor.replica_process import ReplicaReporter
from hooke.serving.replica import Replica
from hooke.serving.service import service_of


def test_without_descriptors_it_tells_what_it_saw_last():
    """A replica that is silent is taken for hung, and ended."""
    telling = ReplicaReporter(Replica(service_of(Rows)), "1", memory_every_s=0.0)
    before = decode_from_child(telling.message())
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        after = decode_from_child(telling.message())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert after.report.memory_bytes == before.report.memory_bytes > 0
    assert after.counts.process == before.counts.process
