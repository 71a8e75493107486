"""Who is let in, and who is not: tokens and renewals, without a socket."""

import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooke.base.errors import HookeError, UsageError
from hooke.certificates.admission import (
    Admission,
    AdmissionRefused,
    Ask,
    AskAuthority,
    AskJoin,
    AskRenewal,
    AuthorityAnswer,
    Granted,
)
from hooke.certificates.authority import Authority, new_key, request
from hooke.certificates.tokens import REMEMBERED_S, Token, TokenExpired

NOW = 1_800_000_000.0
LAB = Authority.make("lab", now=NOW, valid_s=30 * 86400.0)
REQUEST = request(new_key()).decode()


@pytest.fixture
def admission(tmp_path: Path) -> Admission:
    return Admission(LAB, tmp_path)


def token_of(admission, now=NOW):
    return admission.tokens.make("lab", LAB.fingerprint, now=now, open_s=600.0, valid_s=3600.0)


def asked(token, **changed):
    given = {"id": token.id, "secret": token.secret, "machine": "gpu-1", "request": REQUEST}
    return AskJoin(**(given | changed))


def said(admission, ask, *, now=NOW, shown=None):
    return admission.answer(ask, now=now, address="10.0.0.7", shown=shown)


def test_a_token_works_once_and_who_comes_second_learns_who_was_first(admission: Admission) -> None:
    token = token_of(admission)
    first = said(admission, asked(token))
    assert isinstance(first, Granted)
    assert (first.machine, first.until, first.valid_s) == ("gpu-1", NOW + 3600.0, 3600.0)
    second = said(admission, asked(token, machine="gpu-2"))
    assert second == AdmissionRefused(why="the token was already used by gpu-1 at 10.0.0.7", fix=second.fix)
    assert admission.wrong == 0
    assert admission.tokens.open(NOW) == 0


def test_a_secret_is_nowhere_on_the_disk(admission: Admission, tmp_path: Path) -> None:
    token = token_of(admission)
    said(admission, asked(token))
    assert token.secret not in repr(token)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert token.secret.encode() not in path.read_bytes()
            assert path.stat().st_mode & 0o077 == 0


def test_a_token_ends(admission: Admission) -> None:
    token = token_of(admission)
    assert admission.tokens.open(NOW + 599.0) == 1
    assert admission.tokens.open(NOW + 600.0) == 0
    assert said(admission, asked(token), now=NOW + 600.0).why == "the token has expired"
    token_of(admission, now=NOW + 600.0 + REMEMBERED_S + 1)
    assert said(admission, asked(token), now=NOW + 600.0).why == "the token is unknown"


def test_a_mistake_costs_no_token(admission: Admission) -> None:
    token = token_of(admission)
    assert "is not a certificate signing request" in said(admission, asked(token, request="nonsense")).why
    assert "is not a valid machine name" in said(admission, asked(token, machine="../etc")).why
    assert isinstance(said(admission, asked(token)), Granted)


def test_a_wrong_secret_spends_nothing_tells_nothing_and_is_counted(admission: Admission) -> None:
    token = token_of(admission)
    used = token_of(admission)
    said(admission, asked(used))
    wrong = [asked(token, secret="A" * 32), asked(used, secret="A" * 32), asked(token, id="0" * 12)]
    assert {said(admission, each).why for each in wrong} == {"the token is unknown"}
    assert admission.wrong == 3
    assert isinstance(said(admission, asked(token)), Granted)


def test_of_many_at_once_one_is_let_in(tmp_path: Path) -> None:
    """As two services of one authority would: each with its own view of the folder."""
    token = token_of(Admission(LAB, tmp_path))
    ready, won, lost = threading.Barrier(8), [], []

    def spend(number: int) -> None:
        tokens = Admission(LAB, tmp_path).tokens
        ready.wait()
        try:
            won.append(tokens.spend(token.id, token.secret, now=NOW, by=f"gpu-{number}"))
        except TokenExpired:
            lost.append(number)

    threads = [threading.Thread(target=spend, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (won, len(lost)) == ([3600.0], 7)


def test_renewal_is_for_the_same_machine_and_ends_when_it_is_let_go(
    admission: Admission, tmp_path: Path
) -> None:
    said(admission, asked(token_of(admission)))
    (member,) = (tmp_path / "members").iterdir()
    serial = int(member.stem.rpartition("-")[2], 16)
    ask = AskRenewal(request=REQUEST)
    renewed = said(admission, ask, shown=serial, now=NOW + 1800.0)
    assert isinstance(renewed, Granted)
    assert (renewed.machine, renewed.until) == ("gpu-1", NOW + 5400.0)
    assert said(admission, ask).why == "no certificate was shown"
    assert said(admission, ask, shown=serial + 1).why == "this machine was removed from the fleet"
    for path in (tmp_path / "members").glob("gpu-1-*"):
        path.unlink()
    assert said(admission, ask, shown=serial).why == "this machine was removed from the fleet"


def test_who_has_ended_is_forgotten(admission: Admission, tmp_path: Path) -> None:
    said(admission, asked(token_of(admission)))
    late = NOW + 2 * 86400.0
    said(admission, asked(token_of(admission, now=late), machine="gpu-2"), now=late)
    assert [path.name[:5] for path in (tmp_path / "members").iterdir()] == ["gpu-2"]


def test_files_that_are_damaged_are_named(admission: Admission, tmp_path: Path) -> None:
    token = token_of(admission)
    (tmp_path / "tokens" / f"{token.id}.json").write_text("{", "utf-8")
    with pytest.raises(HookeError, match="a token's file is damaged"):
        said(admission, asked(token))
    other = Admission(LAB, tmp_path / "other")
    (tmp_path / "other" / "members").mkdir(parents=True)
    (tmp_path / "other" / "members" / f"gpu-1-{7:040x}.json").write_text("{", "utf-8")
    with pytest.raises(HookeError, match="a member's file is damaged"):
        said(other, AskRenewal(request=REQUEST), shown=7)


def test_whose_authority_it_is_anybody_may_know(admission: Admission) -> None:
    assert said(admission, AskAuthority()) == AuthorityAnswer(pem=LAB.pem.decode())


@pytest.mark.needs("cpu")
@settings(max_examples=20)
@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40), st.text(max_size=400))
def test_whatever_is_asked_nobody_is_let_in_and_nothing_breaks(
    tmp_path_factory: pytest.TempPathFactory, name: str, secret: str, machine: str, text: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "strangers"
    folder.mkdir(exist_ok=True)
    line = msgspec.json.encode(
        {"type": "join", "id": name, "secret": secret, "machine": machine, "request": text}
    )
    try:
        ask = msgspec.json.decode(line, type=Ask)
    except msgspec.ValidationError:
        return
    assert isinstance(said(Admission(LAB, folder), ask), AdmissionRefused)


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b'{"type": "root"}',
        b'{"type": "renewal", "request": "x", "machine": "admission"}',
        b'{"type": "join", "id": "../../../etc", "secret": "", "machine": "a", "request": ""}',
        b'{"type": "join", "id": "000000000000\\n", "secret": "", "machine": "a", "request": ""}',
        b"[" * 10_000,
    ],
)
def test_what_is_no_question_is_not_one(line: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, RecursionError)):
        msgspec.json.decode(line, type=Ask)


class TestText:
    """A token as it is carried."""

    TOKEN = Token(fleet="lab", id="0123456789ab", secret="s" * 32, pin=bytes(range(32)))

    def test_it_is_one_word_that_is_read_back(self) -> None:
        assert Token.parse(f" {self.TOKEN.text}\n") == self.TOKEN
        assert len(self.TOKEN.text.split()) == 1

    @given(st.integers(0, 91))
    def test_one_that_was_cut_off_is_refused_and_not_repeated(self, length: int) -> None:
        with pytest.raises(UsageError, match="this is not a join token") as refused:
            Token.parse(self.TOKEN.text[:length])
        assert "sss" not in str(refused.value)
