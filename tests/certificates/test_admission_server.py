"""The service that lets machines in, over real sockets of this machine, and those who mean it ill."""

import contextlib
import json
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from tests.certificates.machines import certified

from hooke.base.errors import HookeError, UsageError
from hooke.certificates import admission_server as service
from hooke.certificates.admission import Admission
from hooke.certificates.admission_server import MOST_AT_ONCE, MOST_WRONG, admit, listen
from hooke.certificates.authority import Authority, new_key, request
from hooke.certificates.joining import join, renew
from hooke.certificates.key_files import Address, Keys
from hooke.certificates.tokens import Token

pytestmark = pytest.mark.timeout(60)
LAB = Authority.make("lab", now=time.time(), valid_s=86400.0)
NAME = "admission.lab.hooke.internal"


class Open:
    """A service in a thread, for as long as the token `held` can be spent."""

    def __init__(self, folder: Path, authority: Authority = LAB) -> None:
        self.folder = folder
        self.until: float | None = None
        folder.mkdir(exist_ok=True)
        self.admission = Admission(authority, folder)
        self.said: list[str] = []
        self.came: int | HookeError | None = None
        self.held = self.token()

    def token(self, **how) -> Token:
        how = {"now": time.time(), "open_s": 600.0, "valid_s": 3600.0} | how
        return self.admission.tokens.make("lab", LAB.fingerprint, **how)

    def __enter__(self):
        listener = listen(Address("127.0.0.1", 0))
        self.address = Address("127.0.0.1", listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, args=(listener,))
        self._thread.start()
        return self

    def _serve(self, listener) -> None:
        try:
            self.came = admit(self.admission, listener, until=self.until, say=self.said.append)
        except HookeError as error:
            self.came = error

    def __exit__(self, *_):
        for path in (self.folder / "tokens").glob("*.json"):
            path.unlink(missing_ok=True)
        self._thread.join()

    def connect(self, certificate: Path | None = None) -> ssl.SSLSocket:
        context = ssl.create_default_context(cadata=LAB.pem.decode())
        if certificate is not None:
            context.load_cert_chain(certificate)
        plain = socket.create_connection((self.address.host, self.address.port), timeout=20)
        return context.wrap_socket(plain, server_hostname=NAME)

    def until_said(self, text: str, times: int = 1) -> None:
        deadline = time.monotonic() + 30
        while sum(text in line for line in self.said) < times:
            assert time.monotonic() < deadline, self.said
            time.sleep(0.02)


@pytest.fixture
def opened(tmp_path: Path):
    with Open(tmp_path / "lab") as made:
        yield made


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys.of(tmp_path / "gpu", "lab")


def test_a_machine_joins_renews_and_the_service_ends_by_itself(opened: Open, keys: Keys) -> None:
    token = opened.token()
    facts = join(opened.address, Token.parse(token.text), keys, machine="gpu-1")
    assert facts == keys.good(time.time())
    assert sorted(path.name for path in keys.folder.iterdir()) == ["ca.pem", "machine.json", "machine.pem"]
    before = keys.machine.read_bytes()
    assert renew(keys).until >= facts.until
    assert keys.machine.read_bytes() != before
    ssl.create_default_context(cafile=keys.ca).load_cert_chain(keys.machine)
    join(opened.address, opened.held, keys, machine="gpu-1")  # the last one that was open
    opened._thread.join()
    assert opened.came == 2
    assert opened.said == [
        "gpu-1 at 127.0.0.1 joined",
        "gpu-1 at 127.0.0.1 has a new certificate",
        "gpu-1 at 127.0.0.1 joined",
    ]
    with pytest.raises(HookeError, match=r"(?s)no answer from 127.0.0.1:.*hooke fleet admit"):
        renew(keys)


@pytest.mark.needs("cpu")
def test_the_service_does_not_end_before_the_last_has_his_answer(opened: Open) -> None:
    asked = {
        "type": "join",
        "id": opened.held.id,
        "secret": opened.held.secret,
        "machine": "gpu-1",
        "request": request(new_key()).decode(),
    }
    with opened.connect() as secure:
        secure.sendall(json.dumps(asked).encode() + b"\n")
        opened.until_said("gpu-1 at 127.0.0.1 joined")
        opened._thread.join(3 * service.LOOK_S)  # no token is open any more, and the answer not taken
        assert opened._thread.is_alive()
        assert b"granted" in secure.recv(4096)
    opened._thread.join()
    assert opened.came == 1


def test_two_at_once_with_one_token(opened: Open, tmp_path: Path) -> None:
    token = opened.token()

    def try_it(number: int) -> str:
        try:
            keys = Keys.of(tmp_path / f"gpu-{number}", "lab")
            return join(opened.address, token, keys, machine=f"gpu-{number}").machine
        except UsageError as refused:
            return refused.what

    with ThreadPoolExecutor(4) as pool:
        said = sorted(pool.map(try_it, range(4)))
    (first,) = [each for each in said if each.startswith("gpu")]
    assert sum(f"already used by {first} at 127.0.0.1" in each for each in said) == 3


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    "how", ["an authority of its own", "ours, which it is not", "both", "a machine's certificate"]
)
def test_who_is_not_the_authority_gets_no_token(how: str, keys: Keys, tmp_path: Path) -> None:
    own = Authority.make("lab", now=time.time(), valid_s=3600.0)

    class Impostor(Authority):
        @property
        def pem(self) -> bytes:
            return {"an authority of its own": own.pem, "both": LAB.pem + own.pem}.get(how, LAB.pem)

        def certify_admission(self, key, *, now, valid_s):
            if how == "a machine's certificate":
                return LAB.certify("gpu-7", key, now=now, valid_s=valid_s)
            return own.certify_admission(key, now=now, valid_s=valid_s)

    authority = Impostor("lab", own._key, own._certificate)
    with Open(tmp_path / "impostor", authority) as impostor:
        with pytest.raises(HookeError, match="is not this fleet's authority"):
            join(impostor.address, impostor.token(), keys, machine="gpu-1")
        assert not keys.folder.exists()
    assert not any("joined" in line or "refused" in line for line in impostor.said)


def test_a_certificate_of_another_fleet_or_one_that_has_ended_renews_nothing(
    opened: Open, tmp_path: Path
) -> None:
    at = str(opened.address)
    other = Authority.make("lab", now=time.time(), valid_s=3600.0)
    theirs = certified(other, tmp_path / "theirs", "gpu-1", at=at)
    theirs.ca.write_bytes(LAB.pem)
    with pytest.raises(HookeError, match="no answer from"):
        renew(theirs)
    ended = certified(LAB, tmp_path / "ended", "gpu-1", at=at, valid_s=-1.0)
    with pytest.raises(UsageError, match="certificate for the fleet lab expired at"):
        renew(ended)
    ended.replace(machine=ended.machine.read_bytes(), facts=theirs.facts())
    with pytest.raises(HookeError, match="rejects this machine's certificate"):
        renew(ended)
    never_noted = certified(LAB, tmp_path / "let-go", "gpu-1", at=at)
    with pytest.raises(UsageError, match="this machine was removed from the fleet"):
        renew(never_noted)


def test_keys_of_another_fleet_of_that_name_are_not_written_over(opened: Open, tmp_path: Path) -> None:
    other = Authority.make("lab", now=time.time(), valid_s=3600.0)
    theirs = certified(other, tmp_path / "theirs", "gpu-1")
    with pytest.raises(UsageError, match="has keys of another fleet named lab"):
        join(opened.address, opened.held, theirs, machine="gpu-1")
    assert opened.admission.tokens.open(time.time()) == 1


NONSENSE = (
    (b"x" * (64 << 10), "LimitOverrunError"),
    (b'{"type": "authority"', "IncompleteReadError"),
    (b"\xff\n", "DecodeError"),
    (b'{"type": "\xff"}\n', "UnicodeDecodeError"),
    (b'{"type": "join"}\n', "ValidationError"),
    (b'{"x": ' + b"[" * 8000 + b"\n", "Error"),  # RecursionError on some Pythons, DecodeError on others
)


def test_who_speaks_no_tls_or_too_much_or_half_a_line_is_cut_off(opened: Open, keys: Keys) -> None:
    with socket.create_connection((opened.address.host, opened.address.port), timeout=20) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            while plain.recv(4096):
                pass
    opened.until_said("SSLError")
    for number, (line, why) in enumerate(NONSENSE, 2):
        with opened.connect() as secure, contextlib.suppress(OSError):
            secure.sendall(line)
            secure.shutdown(socket.SHUT_WR)
            while secure.recv(4096):
                pass
        opened.until_said("invalid request", number)
        assert why in opened.said[-1]
    assert join(opened.address, opened.token(), keys, machine="gpu-1").machine == "gpu-1"


@pytest.mark.needs("processes")
def test_who_is_slow_is_waited_for_a_bounded_time_and_keeps_nobody_out_for_long(
    opened: Open, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "ANSWER_S", 2.0)
    with contextlib.ExitStack() as stack:
        for _ in range(MOST_AT_ONCE):
            stack.enter_context(socket.create_connection((opened.address.host, opened.address.port)))
        joined = join(opened.address, opened.token(), keys, machine="gpu-1")
        assert joined.machine == "gpu-1"
        with opened.connect() as secure, contextlib.suppress(OSError):
            secure.sendall(b"{")
            assert secure.recv(1) == b""
    opened.until_said("within 2 s", MOST_AT_ONCE + 1)


def guess(opened: Open) -> str:
    """Why a wrong token is refused."""
    asked = {
        "type": "join",
        "id": opened.held.id,
        "secret": "A" * 32,
        "machine": "gpu-1",
        "request": request(new_key()).decode(),
    }
    with opened.connect() as secure:
        secure.sendall(json.dumps(asked).encode() + b"\n")
        answer = msgspec.json.decode(secure.recv(4096))
    assert answer["type"] == "refused"
    return answer["why"]


def test_who_guesses_tokens_ends_it(opened: Open) -> None:
    assert {guess(opened) for _ in range(MOST_WRONG)} == {"the token is unknown"}
    opened._thread.join()
    assert isinstance(opened.came, HookeError)
    assert "10 wrong tokens were shown" in str(opened.came)


@pytest.mark.needs("cpu")
def test_who_guesses_tokens_keeps_nobody_from_renewing(tmp_path: Path, keys: Keys) -> None:
    service = Open(tmp_path / "lab")
    service.until = float("inf")
    with service:
        join(service.address, service.token(), keys, machine="gpu-1")
        assert {guess(service) for _ in range(MOST_WRONG)} == {"the token is unknown"}
        with pytest.raises(UsageError, match="10 wrong tokens were shown"):
            join(service.address, service.held, Keys.of(tmp_path / "other", "lab"), machine="gpu-2")
        assert renew(keys).machine == "gpu-1"
        assert (
            sum("somebody may be guessing" in line and "find out who" in line for line in service.said) == 1
        )
        (service.folder / "members" / "damaged-0.json").write_bytes(b"\xff")  # which ends it
        with pytest.raises(HookeError, match="no answer"):
            renew(keys)
    assert "a member's file is damaged" in str(service.came)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "ended before the answer"),
        (b"x" * (64 << 10), "the answer is too long"),
        (b"{}\n", "is not this fleet's authority"),
        (b'{"type": "\xff"}\n', "is not this fleet's authority"),
        (
            b'{"type": "granted", "pem": "", "machine": "a", "until": 1, "valid_s": 1}\n',
            "fingerprint in the token",
        ),
        (
            json.dumps({"type": "authority", "pem": "-----BEGIN"}).encode() + b"\n",
            "is not this fleet's authority",
        ),
    ],
)
def test_a_stranger_that_answers_anything_gets_nothing(
    answer: bytes, says: str, keys: Keys, tmp_path: Path
) -> None:
    theirs = certified(Authority.make("lab", now=time.time(), valid_s=60.0), tmp_path / "theirs", "x")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(theirs.machine)
    asked = []

    def serve(listener: socket.socket) -> None:
        plain, _ = listener.accept()
        with context.wrap_socket(plain, server_side=True) as secure, contextlib.suppress(OSError):
            asked.append(secure.recv(4096))
            secure.sendall(answer)

    token = Token(fleet="lab", id="0" * 12, secret="s" * 32, pin=LAB.fingerprint)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        with pytest.raises(HookeError, match=says):
            join(Address("127.0.0.1", listener.getsockname()[1]), token, keys, machine="gpu-1")
        thread.join()
    assert asked == [b'{"type":"authority"}\n']


def test_nothing_listens_where_it_cannot() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(HookeError, match="cannot listen on 127.0.0.1"):
            listen(address)


@pytest.mark.parametrize(
    "text", ["", "head", "head:", ":1", "head:99999", "a b:1", "head:8788:1", "http://head:1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a valid address"):
        Address.parse(text)


def test_addresses_are_read_as_they_are_written() -> None:
    for text in ("head.lab:8788", "10.0.0.5:1", "[fd00::5]:8788"):
        assert str(Address.parse(text)) == text
