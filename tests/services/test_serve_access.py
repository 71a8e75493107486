"""`hooke serve` and who may ask it: tokens, certificates and addresses, as a shell meets them."""

import re
import shlex
import socket
import ssl
import stat
import subprocess

import psutil
import pytest
from tests.services.test_serve import SERVICE, command
from tests.serving.certificates import make_certificate

pytestmark = pytest.mark.needs("processes")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "delays.py").write_text(SERVICE)
    return tmp_path


@pytest.fixture
def serving(folder):
    """Starts a service; gives its process and the three lines that it said."""
    started = []

    def start(*words):
        process = subprocess.Popen(
            command("delays.py", "--port", "0", *words), cwd=folder, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process, [process.stderr.readline() for _ in range(3)]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


def pasted(line, folder):
    """What the line that it printed answers, with a value in it."""
    text = line.partition("try: ")[2].replace('{"rows": ...}', '{"rows": [21]}')
    asked = f"{text.strip()} --silent --max-time 20"
    return subprocess.run(
        asked, shell=True, cwd=folder, capture_output=True, text=True, timeout=120, check=True
    )


@pytest.mark.needs("curl")
def test_what_is_printed_can_be_pasted(serving, folder):
    _, lines = serving()
    assert "$(cat .hooke/services/Delay/token)" in lines[2]
    assert pasted(lines[2], folder).stdout == "[42]"
    token = folder / ".hooke" / "services" / "Delay" / "token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert token.read_text().strip() not in "".join(lines)
    before = token.read_text()
    _, again = serving()
    assert token.read_text() == before, "a token lasts, so that who has it may go on"
    assert pasted(again[2], folder).stdout == "[42]"


@pytest.mark.needs("curl")
def test_without_a_token_it_says_so(serving, folder):
    _, lines = serving("--no-auth")
    assert lines[2].startswith("--no-auth: every program on this machine can call the service")
    assert "Bearer" not in lines[2]
    assert pasted(lines[2], folder).stdout == "[42]"
    assert not list((folder / ".hooke" / "services").rglob("token"))


@pytest.mark.needs("curl")
def test_tls(serving, folder):
    cert, key = make_certificate(folder)
    process, lines = serving("--tls-cert", str(cert), "--tls-key", "key.pem", "--host", "localhost")
    assert "https://127.0.0.1:" in lines[0]
    assert pasted(lines[2], folder).stdout == "[42]"
    port = int(re.search(r":(\d+)$", lines[0])[1])
    for oldest in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        context = ssl.create_default_context(cafile=cert)
        with pytest.warns(DeprecationWarning, match="deprecated"):
            context.minimum_version = context.maximum_version = oldest
        with (
            socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
            pytest.raises(OSError, match="SSL"),
        ):
            context.wrap_socket(plain, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", port), timeout=60) as plain:
        plain.sendall(b"GET /-/health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert not plain.recv(1000).startswith(b"HTTP")
    with socket.create_connection(("127.0.0.1", port), timeout=30) as silent:
        assert silent.recv(1000) == b"", "a handshake that does not begin is waited for no longer than a head"


@pytest.mark.needs("curl")
def test_every_address_with_tls_is_what_is_printed(serving, folder):
    make_certificate(folder)
    names = ("--tls-cert", "cert.pem", "--tls-key", "key.pem", "--allow-host", "localhost")
    process, lines = serving("--host", "0.0.0.0", *names)
    port = int(re.search(r"on https://localhost:(\d+)$", lines[0])[1])
    listening = [c for c in psutil.Process(process.pid).net_connections() if c.status == "LISTEN"]
    assert [tuple(one.laddr) for one in listening] == [("0.0.0.0", port)]
    assert pasted(lines[2], folder).stdout == "[42]"


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--host 0.0.0.0", "without TLS"),
        ("--host 0.0.0.0 --no-auth", "leave out --no-auth"),
        ("--host example.org", "not an IP address"),
        ("--tls-cert cert.pem", "go together"),
        ("--tls-cert cert.pem --tls-key none.pem", "does not exist"),
        ("--token-file none", "cannot be read"),
        ("--token-file delays.py", "chmod 600"),
        ("--host 203.0.113.7 --tls-cert cert.pem --tls-key key.pem", "203.0.113.7 cannot be served"),
    ],
)
def test_what_would_let_strangers_in_ends_it(folder, words, said):
    make_certificate(folder)
    done = subprocess.run(
        command("delays.py", *shlex.split(words)),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
