"""Nobody is answered without the token, or from another page, or under another name: each route, each verb."""

import itertools
import os
import stat

import pytest
from tests.serving.certificates import make_certificate
from tests.serving.services import Kinds

from hooke import UsageError
from hooke.serving.auth import Auth, ensure_token, read_token
from hooke.serving.bind_config import BindConfig, TlsFiles
from hooke.serving.service import service_of
from hooke.testing.service_client import ServiceClient

TOKEN = "0123456789abcdef-A_z~"
RIGHT = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
VERBS = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "QUERY",
    "get",
    "X-Y",
]
OPEN = {("GET", "/-/health"), ("HEAD", "/-/health"), ("GET", "/-/ready"), ("HEAD", "/-/ready")}
"""All that is told without a token: one word. A route that is to be open is written here, too."""
FORM = {
    ("GET", "/-/docs"): 200,
    ("HEAD", "/-/docs"): 200,
    ("POST", "/-/docs"): 401,
    ("GET", "/docs"): 308,
    ("HEAD", "/docs"): 308,
}
"""The form that asks for the token, for browsers."""
WRONG = {
    "an origin that ends as ours": ({"host": "localhost:80", "origin": "http://evil.localhost:80"}, 403),
    "no token": ({"authorization": None}, 401),
    "an empty token": ({"authorization": ""}, 401),
    "no token after the scheme": ({"authorization": "Bearer "}, 401),
    "another token": ({"authorization": f"Bearer {TOKEN}x"}, 401),
    "a part of the token": ({"authorization": f"Bearer {TOKEN[:-1]}"}, 401),
    "another scheme": ({"authorization": f"Basic {TOKEN}"}, 401),
    "the token alone": ({"authorization": TOKEN}, 401),
    "another host": ({"host": "evil.example"}, 403),
    "a host that begins as ours": ({"host": "localhost.evil.example"}, 403),
    "another origin": ({"origin": "http://evil.example"}, 403),
    "an origin of another port": ({"host": "localhost:80", "origin": "http://localhost:81"}, 403),
    "an origin that is none": ({"origin": "null"}, 403),
    "a forwarded host": (
        {"host": "evil.example", "x-forwarded-host": "localhost", "forwarded": "host=localhost"},
        403,
    ),
}


@pytest.fixture(scope="module")
def kinds():
    with ServiceClient(service_of(Kinds), {}, auth=Auth(token=TOKEN)) as made:
        yield made


def paths(client):
    """Each route of the replica, whatever others added to it, and what is none."""
    listed = [route.path.replace("{", "").replace("}", "") for route in client.replica.routes]
    assert {"/thread", "/-/health"} < set(listed)
    return [*listed, "/", "/nope", "/setup", "//thread", "/thread/", "*", "/-/"]


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("wrong", WRONG)
def test_refused_on_every_route_and_verb(kinds, wrong):
    changed, status = WRONG[wrong]
    headers = {name: value for name, value in {**RIGHT, **changed}.items() if value is not None}
    for path, verb in itertools.product(paths(kinds), VERBS):
        answer = kinds.request(verb, path, body=b"{}", headers=headers)
        if status == 401 and (verb, path) in FORM:
            assert answer.status == FORM[verb, path]
            assert b"thread" not in answer.body, "who is refused learns no routes"
            continue
        expected = 200 if status == 401 and (verb, path) in OPEN else status
        assert answer.status == expected, (verb, path)
        if answer.status == 401:
            assert answer.headers["www-authenticate"].startswith("Bearer")
        if expected == status:
            said = answer.json()
            assert said["status"] == status
            assert "thread" not in said["detail"], "who is refused learns no routes"


def test_what_is_open_says_one_word(kinds):
    for verb, path in OPEN:
        answer = kinds.request(verb, path)
        assert (answer.status, answer.json()) == (200, {"state": "ready"})


@pytest.mark.parametrize("scheme", ["Bearer ", "Bearer  ", "bearer ", "BEARER  "])
def test_with_the_token_it_is_answered_and_other_pages_may_read_nothing(kinds, scheme):
    headers = {**RIGHT, "authorization": scheme + TOKEN, "host": "localhost:80"}
    for origin in ({}, {"origin": "http://localhost:80"}, {"origin": "https://localhost:80"}):
        answer = kinds.request("POST", "/thread", body=b"{}", headers={**headers, **origin})
        assert answer.status == 200
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_two_headers_of_which_one_might_be_believed(kinds):
    for name in ("host", "authorization", "origin", "content-type", "content-length"):
        scope = {"type": "http", "path": "/thread", "method": "POST"}
        raw = [(key.encode(), value.encode()) for key, value in {"host": "localhost", **RIGHT}.items()]
        answer = ask(kinds, {**scope, "headers": [(name.encode(), b"0"), *raw, (name.encode(), b"0")]})
        assert answer["status"] == 400
    assert (
        ask(kinds, {**scope, "headers": [*raw, *[(b"x-%d" % n, b"") for n in range(200)]]})["status"] == 431
    )


def ask(client, scope):
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message):
        sent.append(message)

    client._wait(client.replica(scope, receive, send))
    return sent[0]


class TestTokens:
    """Files of tokens."""

    def test_one_is_made_for_its_owner_alone_and_kept(self, tmp_path):
        path = tmp_path / "a" / "token"
        before = os.umask(0)
        try:
            made = ensure_token(path)
        finally:
            os.umask(before)
        assert len(made) == 43
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert ensure_token(path) == read_token(path) == made
        assert ensure_token(tmp_path / "b") != made
        assert sorted(os.listdir(path.parent)) == ["token"]

    @pytest.mark.parametrize(
        "text", ["", "\n", "short", "a b" * 20, "x" * 5000, "é" * 20, f"{TOKEN}\n{TOKEN}"]
    )
    def test_what_is_no_token(self, tmp_path, text):
        (tmp_path / "t").write_text(text)
        (tmp_path / "t").chmod(0o600)
        with pytest.raises(UsageError, match="does not hold a valid token"):
            read_token(tmp_path / "t")

    def test_one_that_was_made_and_then_emptied_can_be_made_anew(self, tmp_path):
        made = ensure_token(tmp_path / "t")
        (tmp_path / "t").write_text("")
        with pytest.raises(UsageError, match="does not hold a valid token") as found:
            ensure_token(tmp_path / "t")
        assert f"remove {tmp_path / 't'}" in found.value.fix
        (tmp_path / "t").unlink()
        assert ensure_token(tmp_path / "t") != made

    def test_a_file_that_others_may_read_and_one_that_is_not_there(self, tmp_path):
        (tmp_path / "t").write_text(TOKEN)
        (tmp_path / "t").chmod(0o644)
        with pytest.raises(UsageError, match="can be read by every user") as found:
            read_token(tmp_path / "t")
        assert "chmod 600" in found.value.fix
        for path in (tmp_path / "none", tmp_path):
            with pytest.raises(UsageError, match="cannot be read"):
                read_token(path)


class TestExposure:
    """What may be listened on."""

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"host": "0.0.0.0"}, "without TLS"),
            ({"host": "192.168.1.7"}, "without TLS"),
            ({"host": "::"}, "without TLS"),
            ({"host": "0.0.0.0", "auth": False}, "every machine that reaches it could call"),
            ({"host": "example.org"}, "not an IP address"),
            ({"auth": False, "token_file": "t"}, "exclude each other"),
            ({"names": ("*",)}, "not a valid host name"),
            ({"names": ("a.example:80",)}, "not a valid host name"),
        ],
    )
    def test_refused(self, given, said):
        with pytest.raises(UsageError, match=said):
            BindConfig(**given).check()

    @pytest.mark.parametrize(
        ("given", "url"),
        [
            ({}, "http://127.0.0.1:80"),
            ({"host": "localhost"}, "http://127.0.0.1:80"),
            ({"host": "::1"}, "http://[::1]:80"),
            ({"host": "127.0.0.2", "auth": False}, "http://127.0.0.2:80"),
        ],
    )
    def test_this_machine(self, given, url):
        exposure = BindConfig(**given)
        exposure.check()
        assert exposure.url(80) == url
        assert url.removeprefix("http://").removesuffix(":80") in exposure.make_auth(None).hosts

    def test_other_machines_need_a_certificate_and_a_name(self, tmp_path):
        cert, key = make_certificate(tmp_path)
        with pytest.raises(UsageError, match="no name that clients use"):
            BindConfig(host="0.0.0.0", tls=TlsFiles(cert=cert, key=key)).check()
        exposure = BindConfig(host="0.0.0.0", names=("API.example.org",), tls=TlsFiles(cert=cert, key=key))
        exposure.check()
        assert exposure.make_auth(TOKEN).hosts >= {"api.example.org", "localhost"}
        assert "0.0.0.0" not in exposure.make_auth(TOKEN).hosts
        (tmp_path / "no.pem").write_text("no")
        for wrong in (
            TlsFiles(cert=key, key=cert),
            TlsFiles(cert=cert, key=tmp_path / "no.pem"),
            TlsFiles(cert=cert, key=tmp_path),
        ):
            with pytest.raises(UsageError, match="TLS"):
                BindConfig(tls=wrong).check()

    def test_a_token_is_not_shown(self):
        assert TOKEN not in repr(Auth(token=TOKEN))
