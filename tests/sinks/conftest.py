import socket

import pytest
from tests.sinks.mlflow_places import Server


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A real `mlflow server` in its light form; stopped and started again by the test."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    folder = tmp_path / "server"
    folder.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    running = Server(port, folder)
    running.start()
    yield running
    running.stop()
