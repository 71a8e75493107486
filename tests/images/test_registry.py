"""Push and pull, on Debian's docker-registry on loopback: open, behind a password, and behind tokens."""

import base64
import datetime
import json
import os
import stat
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from tests.images.conftest import LocalRegistry, small_base

from hooke.base.errors import CorruptObject, HookeError, UsageError
from hooke.images.layout import INDEX, ImageLayout, Inside, architecture
from hooke.images.registry import Registry, credentials_of, parse_image_name

pytestmark = pytest.mark.needs("processes")
NOTHING = {"HOME": "/nonexistent"}


def planted(layout, name="team/shop:1", content=b"1"):
    base = small_base(layout)
    layer, diff = layout.add_layer([Inside(path="app/x", content=content)])
    config = {
        **base.config,
        "rootfs": {"type": "layers", "diff_ids": [*base.config["rootfs"]["diff_ids"], diff]},
    }
    return layout.add_image(name, [*base.layers, layer], config)


def asked_for(registry, name, environment=NOTHING):
    return Registry(parse_image_name(f"{registry.host}/{name}"), environment)


def docker_config(folder, **config):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return {**NOTHING, "DOCKER_CONFIG": str(folder), "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def logged_in(folder, host, user, password):
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    return docker_config(folder, auths={host: {"auth": auth}})


class TestOpen:
    def test_what_is_pushed_comes_back(self, registry, layout, tmp_path):
        made = planted(layout)
        digest = asked_for(registry, "team/shop:1").push(layout, made)
        assert digest == made.manifest.digest
        for name in ("team/shop:1", f"team/shop@{digest}"):
            other = ImageLayout.create(tmp_path / name.replace("/", "-"))
            back = asked_for(registry, name).pull(other)
            assert (back.layers, back.config) == (made.layers, made.config)
            assert (
                other.path(back.layers[1].digest).read_bytes()
                == layout.path(made.layers[1].digest).read_bytes()
            )

    def test_what_is_there_is_not_sent_again(self, registry, layout):
        asked_for(registry, "team/again:1").push(layout, planted(layout))
        before = registry.asked("PATCH") + registry.asked("POST")
        asked_for(registry, "team/again:2").push(layout, planted(layout, content=b"2"))
        assert registry.asked("PATCH") + registry.asked("POST") == before + 2, "a layer and the configuration"

    def test_an_image_of_several_machines(self, registry, layout, tmp_path):
        made = planted(layout)
        asked_for(registry, "team/many:one").push(layout, made)
        others = [{**made.manifest.raw(), "platform": {"os": "linux", "architecture": "s390x"}}]
        ours = {**made.manifest.raw(), "platform": {"os": "linux", "architecture": architecture()}}
        for tag, manifests in (("all", [*others, ours]), ("none", others)):
            index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
            blob = layout.add(json.dumps(index).encode(), INDEX)
            where = asked_for(registry, f"team/many:{tag}")
            subprocess.run(
                ["curl", "-sf", "-X", "PUT", "-H", f"Content-Type: {INDEX}", "--data-binary", f"@{layout.path(blob.digest)}",
                 f"http://{registry.host}/v2/team/many/manifests/{tag}"],
                check=True,
            )  # fmt: skip
            other = ImageLayout.create(tmp_path / tag)
            if tag == "all":
                assert where.pull(other).layers == made.layers
            else:
                with pytest.raises(UsageError, match=f"has no image for linux/{architecture()}") as raised:
                    where.pull(other)
                assert raised.value.why == "it has: linux/s390x"

    def test_damage_in_the_registry_is_found(self, registry, layout, tmp_path):
        made = planted(layout, content=os.urandom(100))
        asked_for(registry, "team/bad:1").push(layout, made)
        digest = made.layers[1].digest.removeprefix("sha256:")
        (blob,) = registry.folder.glob(f"data/**/{digest}/data")
        blob.write_bytes(bytes(len(blob.read_bytes())))
        other = ImageLayout.create(tmp_path / "other")
        with pytest.raises(CorruptObject, match=digest):
            asked_for(registry, "team/bad:1").pull(other)
        assert not other.path(made.layers[1].digest).exists()

    def test_one_that_is_missing(self, registry, layout):
        with pytest.raises(UsageError, match="has no image .*/team/none:7") as raised:
            asked_for(registry, "team/none:7").pull(layout)
        assert "check its name and tag" in raised.value.fix

    def test_no_registry(self, layout):
        where = Registry(parse_image_name("127.0.0.1:1/team/x:1"), NOTHING)
        with pytest.raises(HookeError, match=r"the registry 127\.0\.0\.1:1 does not answer"):
            where.pull(layout)


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    folder = tmp_path_factory.mktemp("private")
    hashed = subprocess.run(
        ["perl", "-e", 'print crypt("secret", q($2y$05$abcdefghijklmnopqrstuu))'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (folder / "users").write_text(f"ann:{hashed}\n")
    made = LocalRegistry(folder, auth=f"auth: {{htpasswd: {{realm: shop, path: {folder}/users}}}}\n")
    yield made
    made.end()


class TestPassword:
    def test_with_and_without(self, private, layout, tmp_path):
        made = planted(layout)
        with pytest.raises(HookeError, match="gives no access to team/shop") as raised:
            asked_for(private, "team/shop:1").push(layout, made)
        assert raised.value.fix == f"docker login {private.host}, with a user who may"
        wrong = logged_in(tmp_path / "wrong", private.host, "ann", "guess")
        with pytest.raises(HookeError, match="gives no access to team/shop"):
            asked_for(private, "team/shop:1", wrong).push(layout, made)
        right = logged_in(tmp_path / "right", private.host, "ann", "secret")
        asked_for(private, "team/shop:1", right).push(layout, made)
        other = ImageLayout.create(tmp_path / "other")
        assert asked_for(private, "team/shop:1", right).pull(other).layers == made.layers

    def test_by_a_helper(self, private, layout, tmp_path):
        environment = docker_config(tmp_path / "helped", credHelpers={private.host: "vault"})
        helper = tmp_path / "helped/docker-credential-vault"
        helper.write_text(f"#!/bin/sh\nread server\n[ $1 = get ] && [ $server = {private.host} ] || exit 1\n"
                          'echo \'{"Username": "ann", "Secret": "secret"}\'\n')  # fmt: skip
        helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
        asked_for(private, "team/helped:1", environment).push(layout, planted(layout))
        helper.unlink()
        with pytest.raises(UsageError, match="names the helper docker-credential-vault, which cannot be run"):
            asked_for(private, "team/helped:1", environment).push(layout, planted(layout))


class Tokens(BaseHTTPRequestHandler):
    """Gives tokens to ann, as registries of clouds do."""

    def do_GET(self):
        asked = parse_qs(urlsplit(self.path).query)
        known = self.headers.get("Authorization") == f"Basic {base64.b64encode(b'ann:secret').decode()}"
        self.server.asked.append(asked)
        kind, name, actions = asked["scope"][0].split(":")
        now = int(datetime.datetime.now().timestamp())
        access = [{"type": kind, "name": name, "actions": actions.split(",")}] if known else []
        claims = {
            "iss": "shop",
            "aud": asked["service"][0],
            "sub": "",
            "iat": now,
            "nbf": now - 5,
            "exp": now + 60,
            "jti": "1",
            "access": access,
        }
        token = jwt.encode(
            claims, self.server.key, algorithm="RS256", headers={"x5c": [self.server.certificate]}
        )
        body = json.dumps({"token": token}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shop")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "root.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Tokens)
    server.key, server.asked = key, []
    server.certificate = base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    realm = f"http://127.0.0.1:{server.server_address[1]}/token"
    auth = f"auth: {{token: {{realm: {realm}, service: shop, issuer: shop, rootcertbundle: {folder}/root.pem}}}}\n"
    try:
        made = LocalRegistry(folder, auth=auth)
        made.server = server
        yield made
        made.end()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class TestTokens:
    def test_a_token_is_fetched_for_what_is_asked(self, tokens, layout, tmp_path):
        made = planted(layout)
        right = logged_in(tmp_path / "right", tokens.host, "ann", "secret")
        asked_for(tokens, "team/shop:1", right).push(layout, made)
        # The registry names the actions in any order.
        scopes = {each["scope"][0].replace("push,pull", "pull,push") for each in tokens.server.asked}
        assert "repository:team/shop:pull,push" in scopes
        other = ImageLayout.create(tmp_path / "other")
        assert asked_for(tokens, "team/shop:1", right).pull(other).layers == made.layers
        with pytest.raises(
            HookeError, match="gives no access to team/shop|asks for credentials again and again"
        ):
            asked_for(tokens, "team/shop:1").pull(ImageLayout.create(tmp_path / "third"))


class TestNames:
    @pytest.mark.parametrize(
        ("text", "host", "repository", "version"),
        [
            ("python", "docker.io", "library/python", "latest"),
            ("python:3.11-slim", "docker.io", "library/python", "3.11-slim"),
            ("team/shop", "docker.io", "team/shop", "latest"),
            ("localhost/shop:1", "localhost", "shop", "1"),
            ("example.com:5000/a/b/c:1.0_x", "example.com:5000", "a/b/c", "1.0_x"),
            (f"example.com/a:1@sha256:{'a' * 64}", "example.com", "a", f"sha256:{'a' * 64}"),
        ],
    )
    def test_parts(self, text, host, repository, version):
        made = parse_image_name(text)
        assert (made.host, made.repository, made.version) == (host, repository, version)

    @pytest.mark.parametrize(
        "text",
        ["", "Team/Shop", "a:", "a@sha256:12", "a b", "a/../b", "example.com/", "example.com/a:x/y", "a:-x"],
    )
    def test_what_is_none(self, text):
        with pytest.raises(UsageError, match="is no name of an image"):
            parse_image_name(text)

    def test_a_broken_configuration(self, tmp_path):
        environment = docker_config(tmp_path / "broken")
        (tmp_path / "broken/config.json").write_text("{")
        with pytest.raises(UsageError, match=r"config\.json cannot be read"):
            credentials_of("example.com", environment)
        environment = docker_config(tmp_path / "odd", auths={"example.com": {"auth": "%%"}})
        with pytest.raises(UsageError, match=r"has no valid entry for example\.com"):
            credentials_of("example.com", environment)


class Moves(BaseHTTPRequestHandler):
    """Too busy at first; then what is asked for is elsewhere, if `to` says where."""

    def do_GET(self):
        self.server.seen.append(self.headers.get("Authorization"))
        busy = len(self.server.seen) == 1 and self.server.to
        self.send_response(503 if busy else 307 if self.server.to else 200)
        self.send_header("Location", f"http://127.0.0.1:{self.server.to}{self.path}")
        self.send_header("Content-Type", INDEX)
        self.send_header("Content-Length", "17")
        self.end_headers()
        self.wfile.write(b'{"manifests": []}')

    def log_message(self, *_):
        pass


def test_where_a_registry_moves_to_gets_no_credentials(layout):
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Moves) for _ in range(2)]
    threads = [threading.Thread(target=server.serve_forever) for server in servers]
    for server, to in zip(servers, (servers[1].server_address[1], 0), strict=True):
        server.seen, server.to = [], to
    for thread in threads:
        thread.start()
    where = Registry(parse_image_name(f"127.0.0.1:{servers[0].server_address[1]}/team/x:1"), NOTHING)
    where._authorization = "Basic secret"
    with pytest.raises(UsageError, match="has no image for linux"):
        where.pull(layout)
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        thread.join()
        server.server_close()
    assert [server.seen for server in servers] == [["Basic secret", "Basic secret"], [None]]
