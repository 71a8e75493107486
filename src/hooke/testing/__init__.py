"""Proof, as a product: seeded simulations of whole runs, and the suites that every engine and store must pass.

It drives the production classes through their protocols, with fakes only where the outside world would be;
plugins use it as this repository does. It knows nothing of commands and pages.
Imports every floor below. Nothing outside tests imports it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hooke.testing.chaos_proxy import ChaosProxy
    from hooke.testing.engine_suite import check_engine
    from hooke.testing.fake_provider import FakeProvider
    from hooke.testing.fleet_sim import check_fleet, play_fleet
    from hooke.testing.hosts import Hosts
    from hooke.testing.provider_suite import check_provider
    from hooke.testing.s3_server import S3Server
    from hooke.testing.service_client import client
    from hooke.testing.sim import simulate
    from hooke.testing.sink_suite import MemorySink, check_sink
    from hooke.testing.store_suite import check_backend

__all__ = [
    "ChaosProxy",
    "FakeProvider",
    "Hosts",
    "MemorySink",
    "S3Server",
    "check_backend",
    "check_engine",
    "check_fleet",
    "check_provider",
    "check_sink",
    "client",
    "play_fleet",
    "simulate",
]

_MADE_IN = {
    "ChaosProxy": "hooke.testing.chaos_proxy",
    "Hosts": "hooke.testing.hosts",
    "S3Server": "hooke.testing.s3_server",
    "check_backend": "hooke.testing.store_suite",
    "MemorySink": "hooke.testing.sink_suite",
    "check_engine": "hooke.testing.engine_suite",
    "check_sink": "hooke.testing.sink_suite",
    "FakeProvider": "hooke.testing.fake_provider",
    "check_fleet": "hooke.testing.fleet_sim",
    "check_provider": "hooke.testing.provider_suite",
    "play_fleet": "hooke.testing.fleet_sim",
    "client": "hooke.testing.service_client",
    "simulate": "hooke.testing.sim",
}


def __getattr__(name: str) -> object:
    # Lazy: workers import the suite's tasks from here, and need none of the rest.
    if name not in _MADE_IN:
        raise AttributeError(f"module 'hooke.testing' has no attribute {name!r}")
    return getattr(import_module(_MADE_IN[name]), name)
