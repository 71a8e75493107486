"""For authors of plug-ins: a conformance suite for every protocol, fakes with fault knobs, and clients.

A suite holds a backend to the guarantees of its protocol; Hooke's own backends pass the same ones. It drives the
production classes, with fakes only where the outside world would be. It knows nothing of commands.
Imports every folder below. Only tests import it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hooke.testing.backend_suite import check_backend
    from hooke.testing.engine_suite import check_engine
    from hooke.testing.lambda_cloud import LambdaServer
    from hooke.testing.provider_suite import FakeProvider, check_provider
    from hooke.testing.s3_server import S3Server
    from hooke.testing.service_client import client
    from hooke.testing.sink_suite import MemorySink, check_sink
    from hooke.testing.store_suite import check_durability, check_store

__all__ = [
    "FakeProvider",
    "LambdaServer",
    "MemorySink",
    "S3Server",
    "check_backend",
    "check_durability",
    "check_engine",
    "check_provider",
    "check_sink",
    "check_store",
    "client",
]

_MODULE_OF = {
    "FakeProvider": "hooke.testing.provider_suite",
    "LambdaServer": "hooke.testing.lambda_cloud",
    "MemorySink": "hooke.testing.sink_suite",
    "S3Server": "hooke.testing.s3_server",
    "check_backend": "hooke.testing.backend_suite",
    "check_durability": "hooke.testing.store_suite",
    "check_engine": "hooke.testing.engine_suite",
    "check_provider": "hooke.testing.provider_suite",
    "check_sink": "hooke.testing.sink_suite",
    "check_store": "hooke.testing.store_suite",
    "client": "hooke.testing.service_client",
}


def __getattr__(name: str) -> object:
    # Lazy: workers import only the suite's tasks from here.
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'hooke.testing' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
