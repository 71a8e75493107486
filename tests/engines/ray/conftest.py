"""A Ray that is there already, for all tests that join one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hooke.engines.ray.head import Head, environment_of_head


@pytest.fixture(scope="package")
def ray() -> Iterator[tuple[str, dict[str, str]]]:
    """The address of a Ray of four CPUs, and the environment of its clients."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        environment = environment_of_head(Path(folder), os.environ)
        told = {name: value for name, value in environment.items() if name.startswith("RAY_")}
        head = Head(Path(folder), environment=environment, cpus=4)
        try:
            head.wait()
            yield head.address, told
        finally:
            head.end()


@pytest.fixture
def address(ray: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> str:
    """Its address; the environment lets this process and its children in."""
    where, told = ray
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    return where
