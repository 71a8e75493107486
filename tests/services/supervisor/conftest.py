"""A project with a service of several replicas, supervisors and loads; whatever a test leaves running is ended."""

import pytest
from tests.services.supervisor.supervised import (
    SERVICE,
    Load,
    Supervised,
    end_all,
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "delays.py").write_text(SERVICE)
    yield tmp_path
    end_all(tmp_path)


@pytest.fixture
def supervised(folder):
    started = []

    def start(*words, file="delays.py"):
        started.append(Supervised(folder, "--healthy", "1", *words, file=file))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


@pytest.fixture
def load():
    started = []

    def start(service, factors="2"):
        started.append(Load(service.url, service.token, factors=factors))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
        one.process.stdin.close()
        one.process.stdout.close()
