"""Ways to ask a registry: they say the same of the same registry, and say what is wrong with a wrong one."""

import http.server
import json
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from hooke.base.errors import HookeError, MissingObject, UsageError
from hooke.models.registries.rest import RestRegistry
from hooke.models.registries.sqlite import SqliteRegistry
from hooke.models.registry_protocol import RegisteredVersion, find, parse_wanted


def nowhere(version: RegisteredVersion, file: str, target: Path) -> None:
    raise AssertionError(f"{version.location} is here")


OLD = """
CREATE TABLE registered_models (name TEXT);
CREATE TABLE model_versions (name TEXT, version INTEGER, creation_time BIGINT, current_stage TEXT, source TEXT,
    storage_location TEXT, run_id TEXT);
CREATE TABLE model_version_tags (name TEXT, version INTEGER, key TEXT, value TEXT);
CREATE TABLE registered_model_aliases (name TEXT, version INTEGER, alias TEXT);
INSERT INTO registered_models VALUES ('flights');
INSERT INTO model_versions VALUES ('flights', 1, 1000, 'None', '/models/1', NULL, 'r');
INSERT INTO model_versions VALUES ('flights', 2, 2000, NULL, 'models:/m', '/models/2', NULL);
INSERT INTO model_versions VALUES ('flights', 3, 3000, 'Deleted_Internal', '', '', NULL);
INSERT INTO model_version_tags VALUES ('flights', 2, 'hooke.metrics', '{"auc": 0.5}');
INSERT INTO registered_model_aliases VALUES ('flights', 1, 'champion');
"""


def database(file: Path, script: str) -> SqliteRegistry:
    with closing(sqlite3.connect(file)) as db:
        db.executescript(script)
    return SqliteRegistry(file, elsewhere=nowhere)


def test_a_database_of_before_mlflows_workspaces(tmp_path):
    registry = database(tmp_path / "mlflow.db", OLD)
    assert registry.names() == ["flights"]
    newest, first = registry.versions("flights")
    assert (newest.number, newest.location, newest.metrics, newest.created_at) == (
        2,
        "/models/2",
        {"auc": 0.5},
        2.0,
    )
    assert (first.number, first.location, first.aliases, first.mlflow_run) == (
        1,
        "/models/1",
        ("champion",),
        "r",
    )
    assert find(registry, parse_wanted("flights")) == newest
    assert (
        find(registry, parse_wanted("flights@champion")) == find(registry, parse_wanted("flights:1")) == first
    )


def test_where_nothing_was_registered_there_is_nothing(tmp_path):
    assert SqliteRegistry(tmp_path / "mlflow.db", elsewhere=nowhere).versions("a") == []
    assert not (tmp_path / "mlflow.db").exists(), "to look makes nothing"
    registry = database(tmp_path / "other.db", "CREATE TABLE runs (id TEXT)")
    assert (registry.names(), registry.versions("a")) == ([], [])
    with pytest.raises(UsageError, match="no model is called 'a'") as refused:
        find(registry, parse_wanted("a"))
    assert "none is registered yet" in refused.value.fix


def test_a_file_that_is_no_database_is_said(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    with pytest.raises(HookeError, match="MLflow's registry cannot be read"):
        SqliteRegistry(tmp_path / "mlflow.db", elsewhere=nowhere).names()


def test_files_that_went_are_said_by_name(tmp_path):
    registry = SqliteRegistry(tmp_path / "mlflow.db", elsewhere=nowhere)
    for location in (str(tmp_path / "gone"), f"file://{tmp_path}/gone"):
        version = RegisteredVersion(name="flights", number=1, location=location)
        with pytest.raises(MissingObject, match="the file model.pkl of"):
            registry.fetch(version, "model.pkl", tmp_path / "target")


@contextmanager
def answering(code: int, body: bytes):
    """An HTTP server that says one thing; and what it was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Authorization")))
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            """Quiet."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("environment", "sent"),
    [
        ({}, None),
        ({"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "it"}, "Basic bWU6aXQ="),
        ({"MLFLOW_TRACKING_TOKEN": "abc"}, "Bearer abc"),
    ],
)
def test_a_server_is_told_who_asks(environment, sent):
    with answering(200, json.dumps({"registered_models": [{"name": "b"}, {"name": "a"}]}).encode()) as (
        uri,
        asked,
    ):
        assert RestRegistry(uri + "/", environment, elsewhere=nowhere).names() == ["a", "b"]
    assert asked == [("/api/2.0/mlflow/registered-models/search?max_results=200", sent)]


@contextmanager
def redirecting(target, code=302):
    """A server that sends every request on; yields its address and the headers it got."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Authorization")))
            self.send_response(code)
            self.send_header("Location", target + self.path.removeprefix("/old"))
            self.end_headers()

        def log_message(self, *arguments):
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "environment",
    [{"MLFLOW_TRACKING_TOKEN": "abc"}, {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "it"}],
    ids=["token", "password"],
)
def test_credentials_do_not_follow_a_redirect_to_another_server(environment, code):
    answer = json.dumps({"registered_models": [{"name": "a"}]}).encode()
    with answering(200, answer) as (other, asked), redirecting(other, code) as (uri, own):
        assert RestRegistry(uri, environment, elsewhere=nowhere).names() == ["a"]
    assert own[0][1] is not None
    assert asked == [("/api/2.0/mlflow/registered-models/search?max_results=200", None)]


def test_a_chain_of_redirects_does_not_bring_credentials_back_to_another_server():
    answer = json.dumps({"registered_models": []}).encode()
    with (
        answering(200, answer) as (last, asked),
        redirecting(last) as (middle, passed),
        redirecting(middle) as (uri, own),
    ):
        RestRegistry(uri, {"MLFLOW_TRACKING_TOKEN": "abc"}, elsewhere=nowhere).names()
    assert [each[0][1] for each in (own, passed, asked)] == ["Bearer abc", None, None]


def test_a_server_that_sends_on_to_one_that_asks_for_credentials_is_said():
    with (
        answering(401, b"") as (other, _),
        redirecting(other) as (uri, _),
        pytest.raises(HookeError, match="does not get your credentials") as refused,
    ):
        RestRegistry(uri, {"MLFLOW_TRACKING_TOKEN": "abc"}, elsewhere=nowhere).names()
    assert other in refused.value.fix


@pytest.mark.parametrize(
    ("code", "body", "said"),
    [
        (401, b"", "MLFLOW_TRACKING_USERNAME"),
        (500, b"", "500 Internal Server Error"),
        (200, b"<html>", "JSONDecodeError"),
    ],
)
def test_a_server_that_refuses_or_is_none_of_mlflows(code, body, said):
    with answering(code, body) as (uri, _), pytest.raises(HookeError, match=said) as refused:
        RestRegistry(uri, {}, elsewhere=nowhere).names()
    assert uri in refused.value.where


def filled(uri: str, folder: Path) -> None:
    """By MLflow's own client, and not by ours."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    for name in ("flights", "delays"):
        client.create_registered_model(name)
    run = client.create_run("0")
    client.log_text(run.info.run_id, "weights", "model/weights.bin")
    for number in range(1, 4):
        source = f"{run.info.artifact_uri}/model"
        client.create_model_version(
            "flights", source, run.info.run_id, tags={"number": str(number), "empty": ""}
        )
    client.set_registered_model_alias("flights", "champion", "1")
    client.set_registered_model_alias("flights", "best", "1")
    client.delete_model_version("flights", "2")


def same_answers(uri: str, ours, folder: Path) -> None:
    from hooke.models.registries.mlflow_client import MlflowRegistry

    filled(uri, folder)
    theirs = MlflowRegistry(uri)
    assert ours.names() == theirs.names() == ["delays", "flights"]
    for name in ("flights", "delays", "nothing"):
        assert ours.versions(name) == theirs.versions(name)
    third, first = ours.versions("flights")
    assert (third.number, first.aliases) == (3, ("best", "champion"))
    for at, registry in enumerate((ours, theirs)):
        registry.fetch(first, "weights.bin", folder / f"fetched-{at}")
        assert (folder / f"fetched-{at}").read_text() == "weights"
        with pytest.raises(HookeError):
            registry.fetch(first, "nothing.bin", folder / "nothing")
    assert not first.digest


@pytest.mark.needs("processes")
@pytest.mark.filterwarnings("ignore")
def test_the_sqlite_file_says_what_mlflow_says(shop):
    file = shop.folder / "mlflow.db"
    same_answers(f"sqlite:///{file}", SqliteRegistry(file, elsewhere=nowhere), shop.folder)


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_the_server_says_what_mlflow_says(server, tmp_path):
    same_answers(server, RestRegistry(server, {}, elsewhere=nowhere), tmp_path)


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_all_who_give_a_new_alias_at_the_same_moment_succeed(server, tmp_path):
    from hooke.models.registries.mlflow_client import MlflowRegistry

    filled(server, tmp_path)
    registry = MlflowRegistry(server)
    version = registry.versions("flights")[0]
    aliases = [f"alias-{number}" for number in range(12)]
    with ThreadPoolExecutor(8) as pool:
        for alias in aliases:
            list(pool.map(lambda _, alias=alias: registry.give(version, alias), range(8)))
    assert {*aliases} <= {*registry.versions("flights")[0].aliases}
