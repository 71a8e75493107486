"""uvicorn's inner parts are looked for before anybody connects."""

import re
from pathlib import Path

import pytest

from hooke.base.errors import HookeError
from hooke.serving.uvicorn import limited_connection as connection
from hooke.serving.uvicorn import server
from hooke.serving.uvicorn.compat import PARTS, check_uvicorn, missing

PROTOCOL = ("uvicorn.protocols.http.httptools_impl", "HttpToolsProtocol")


def test_this_uvicorn_has_all_of_them():
    check_uvicorn()


def test_what_is_not_there_is_named():
    assert list(missing({PROTOCOL: ("cycle", "no_such", "nor_this")})) == [
        "HttpToolsProtocol.no_such",
        "HttpToolsProtocol.nor_this",
    ]
    assert list(missing({("uvicorn.server", "Nothing"): ("x",)})) == ["uvicorn.server.Nothing"]
    assert list(missing({("uvicorn.nowhere", "Server"): ("x",)})) == ["uvicorn.nowhere.Server"]


def test_all_that_is_used_of_a_request_and_of_a_connection_is_looked_for():
    source = Path(connection.__file__).read_text()
    assert set(re.findall(r"\bcycle\.(\w+)", source)) <= {*PARTS[PROTOCOL[0], "RequestResponseCycle"]}
    own = {*vars(connection.LimitedConnection), *re.findall(r"self\.(_\w+)", source)}
    used = set(re.findall(r"self\.(\w+)", source.partition("class _Direct")[0])) - own
    assert used <= {*PARTS[PROTOCOL]}
    overridden = {
        name for name in vars(server._Server) if hasattr(server.uvicorn.Server, name) and name[0] != "_"
    }
    assert overridden <= {*PARTS["uvicorn.server", "Server"]}


def test_the_refusal_says_which_version_to_take(monkeypatch):
    monkeypatch.setattr("hooke.serving.uvicorn.compat.TAKES", ("config", "another"))
    with pytest.raises(HookeError, match="is not supported") as refused:
        check_uvicorn()
    assert "HttpToolsProtocol(config, another)" in refused.value.why
    assert re.search(r"pip install 'uvicorn>=[\d.]+'", refused.value.fix)
