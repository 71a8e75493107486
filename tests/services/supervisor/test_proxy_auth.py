"""Through the front as at a replica: without the token, from another page or under another name nobody is answered, on any route."""

import http.client
import json
from contextlib import closing

import pytest
from tests.services.supervisor.supervised import SERVICE, bound, printed
from tests.serving.test_auth import FORM, OPEN, RIGHT, TOKEN, VERBS, WRONG

from hooke.serving.replica import Replica
from hooke.serving.service import service_of

pytestmark = pytest.mark.needs("processes")

MALFORMED = {"CONNECT", "get", "X-Y"}
"""Verbs that the front takes for no HTTP, whoever sends them."""
TENSOR = {"inputs": [{"name": "rows", "datatype": "INT64", "shape": [1], "data": [3]}]}
BODIES = {
    "/predict": {"rows": [3]},
    "/threads": {},
    "/grow": {"mb": 0},
    "/hang": {"s": 0},
    "/block": {"s": 0},
    "/v2/models/Delay.predict/infer": TENSOR,
    "/v2/models/Delay.predict/versions/1/infer": TENSOR,
    "/v2/repository/index": {},
}
"""What each route of POST answers with 200: one that is new is written here, too."""


@pytest.fixture
def routes():
    """Path and verbs of all that a replica of the service answers, as its own table has them."""
    made = {}
    exec(SERVICE, made)
    table = Replica(service_of(made["Delay"])).routes
    return {
        route.path.replace("{name}", "Delay.predict").replace("{version}", "1"): set(route.verbs)
        for route in table
    }


def ask(port, verb, path, headers, body=b"{}"):
    """The answer's status and body; a hang is a failure."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request(verb, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def changed(wrong):
    headers, status = WRONG[wrong]
    return {name: value for name, value in {**RIGHT, **headers}.items() if value is not None}, status


@pytest.mark.long
def test_nobody_gets_past_the_front_and_who_has_the_token_does(supervised, folder, routes):
    (folder / "token").write_text(TOKEN)
    (folder / "token").chmod(0o600)
    service = supervised("--replicas", "2", "--token-file", "token")
    service.until_ready(2)
    port = int(service.url.rpartition(":")[2])
    refused = 0
    for wrong in WRONG:
        headers, status = changed(wrong)
        for path in [*routes, "/", "/nope", "//predict", "/predict/", "/-/", "/setup"]:
            for verb in VERBS:
                got, body = ask(port, verb, path, headers)
                if status == 401 and (verb, path) in FORM:
                    assert (got, b"predict" in body) == (FORM[verb, path], False)
                    continue
                is_open = status == 401 and (verb, path) in OPEN
                expected = 400 if verb in MALFORMED else 200 if is_open else status
                assert got == expected, (wrong, verb, path, body)
                assert b"predict" not in body, "who is refused learns no routes"
                refused += not is_open
        for verb in VERBS:
            assert 400 <= ask(port, verb, "*", headers)[0] < 500, (wrong, verb)
    assert refused > len(WRONG) * len(routes) * 10
    assert bound(service) == printed(service), "while it is asked"
    for path, verbs in routes.items():
        for verb in verbs if ("GET", path) not in FORM else ():
            got, body = ask(port, verb, path, RIGHT, json.dumps(BODIES[path] if verb == "POST" else {}))
            assert got == 200, (verb, path, body)
