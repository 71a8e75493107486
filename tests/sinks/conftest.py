import pytest


@pytest.fixture
def server(mlflow_server, monkeypatch):
    """A real `mlflow server`, to which all is sent."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    return mlflow_server
