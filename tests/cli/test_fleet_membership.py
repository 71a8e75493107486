"""`hooke fleet ca`, `token`, `admit`, `join`, `renew` and `exec`, as they are typed."""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from tests.certificates.machines import certified

from hooke.base.errors import ConfigError, HookeError, UsageError
from hooke.certificates.authority import Authority
from hooke.certificates.key_files import CA_KEY, Keys
from hooke.cli.entry import hooke
from hooke.cli.screens import CommandSession
from hooke.fleets.membership import machine_name, run_with_certificate, with_safe_options
from hooke.project.backends import find_backend
from hooke.project.folder import Project

TOLD = [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"]


@pytest.fixture
def head(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*words, stdin=None):
    """What the command prints on stdout. Raises what it raises."""
    done = CliRunner().invoke(
        hooke,
        ["fleet", *words],
        input=stdin,
        obj=CommandSession(),
        catch_exceptions=False,
        standalone_mode=False,
    )
    return done.stdout


def test_an_authority_is_made_once(head):
    call("ca", "lab", "--valid", "30d")
    keys = Keys.of(head / ".hooke", "lab")
    before = (keys.folder / CA_KEY).read_bytes()
    facts = keys.good(time.time() + 29 * 86400)
    assert (facts.machine, facts.at) == (machine_name(), "")
    with pytest.raises(UsageError, match="already has keys for the fleet lab"):
        call("ca", "lab")
    assert (keys.folder / CA_KEY).read_bytes() == before


def test_a_token_is_all_that_is_printed(head):
    call("ca", "lab")
    assert re.fullmatch(r"lab\.[0-9a-f]{12}\.[\w-]{32}\.[\w-]{43}\n", call("token", "lab"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("ca", "Lab"), "is not a valid fleet name"),
        (("ca", "lab", "--valid", "0"), "--valid '0' is too short"),
        (("token", "lab"), "has no keys for the fleet lab"),
        (("admit", "lab", "--listen", "8788"), "is not a valid address"),
        (("admit", "lab", "--listen", "127.0.0.1:0"), "has no keys for the fleet lab"),
        (("renew", "lab"), "has no keys for the fleet lab"),
        (("exec", "lab", "--", "true"), "has no keys for the fleet lab"),
        (("join", "head:8788"), "this is not a join token"),
    ],
)
def test_what_makes_no_sense_is_refused(head, words, says):
    with pytest.raises(UsageError, match=re.escape(says)):
        call(*words, stdin="")


def test_nobody_is_waited_for_without_a_token(head):
    call("ca", "lab")
    with pytest.raises(UsageError, match="the fleet lab has no open token"):
        call("admit", "lab", "--listen", "127.0.0.1:0")


def test_a_machine_that_joined_lets_nobody_in(head):
    authority = Authority.make("lab", now=time.time(), valid_s=3600.0)
    certified(authority, head / ".hooke", "gpu-1", at="head:8788")
    with pytest.raises(UsageError, match="is on another machine"):
        call("token", "lab")


@pytest.mark.needs("cpu")
def test_a_command_has_dasks_settings_and_its_own_exit_code(head, capfd):
    call("ca", "lab")
    keys = Keys.of(head / ".hooke", "lab")
    assert run_with_certificate(TOLD, keys, say=print) == 0
    told = json.loads(capfd.readouterr().out)
    dask = {name: value for name, value in told.items() if name.startswith("DASK_")}
    assert dask.pop("DASK_DISTRIBUTED__COMM__TLS__CA_FILE") == str(keys.ca.resolve())
    assert dask.pop("DASK_DISTRIBUTED__COMM__TLS__MIN_VERSION") == "1.3"
    assert dask.pop("DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION") == "True"
    assert dask.pop("DASK_DISTRIBUTED__COMM__DEFAULT_SCHEME") == "tls"
    assert set(dask.values()) == {str(keys.machine.resolve())}
    assert len(dask) == 6
    assert run_with_certificate([sys.executable, "-c", "raise SystemExit(7)"], keys, say=print) == 7
    own = "import signal; raise SystemExit(signal.getsignal(signal.SIGINT) is not signal.default_int_handler)"
    assert run_with_certificate([sys.executable, "-c", own], keys, say=print) == 0
    with pytest.raises(UsageError, match="program 'no-such' not found"):
        run_with_certificate(["no-such"], keys, say=print)


@pytest.mark.needs("processes")
def test_a_command_gets_the_sigterm_and_is_ended_before_its_certificate(head):
    authority = Authority.make("lab", now=time.time(), valid_s=3600.0)
    keys = certified(authority, head / ".hooke", "gpu-1", valid_s=4.0, at="127.0.0.1:9")
    sleeps = [sys.executable, "-c", "import time; time.sleep(60)"]
    told: list[str] = []
    with pytest.raises(HookeError, match=r"(?s)could not be renewed.*hooke fleet admit lab"):
        run_with_certificate(sleeps, keys, say=told.append)
    assert "the certificate could not be renewed" in told[0]
    with pytest.raises(HookeError, match="ended at|could not be renewed"):
        run_with_certificate(sleeps, keys, say=told.append)
    keys.replace(machine=b"", facts=msgspec.structs.replace(keys.facts(), until=time.time() + 3600, at=""))
    term = f"import os, signal, time; os.kill({os.getpid()}, signal.SIGTERM); time.sleep(60)"
    assert run_with_certificate([sys.executable, "-c", term], keys, say=print) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("words", "more"),
    [
        ("dask scheduler", "--dashboard-address 127.0.0.1:8787"),
        (
            "dask worker tls://h:1",
            "--dashboard-address 127.0.0.1:0 --preload-nanny hooke.engines.dask.certificate",
        ),
        (
            "/opt/bin/dask-worker --dashboard-address=127.0.0.1:1",
            "--preload-nanny hooke.engines.dask.certificate",
        ),
        ("python -m dask scheduler --dashboard-address localhost:1", ""),
        ("python worker.py --dashboard-address :8787", ""),
    ],
)
def test_dasks_pages_are_for_this_machine(words, more):
    assert with_safe_options(words.split(), renewing=True) == [*words.split(), *more.split()]


@pytest.mark.parametrize("where", [":8787", "0.0.0.0:8787", "10.0.0.5:0", "127.0.0.1.example.org:1", "8787"])
def test_pages_for_everybody_are_refused(where):
    with pytest.raises(UsageError, match="would be open to every machine"):
        with_safe_options(["dask", "scheduler", "--dashboard-address", where], renewing=False)


class TestPlaces:
    """`fleet` of a place in hooke.toml."""

    def place(self, folder: Path, more: str = 'fleet = "lab"'):
        text = f'[places.far]\nengine = "dask"\naddress = "tls://head:8786"\n{more}\n'
        (folder / "hooke.toml").write_text(text, "utf-8")
        return find_backend("far", workers=None, places=Project.find(folder).settings.places)

    def test_its_keys_are_those_of_the_fleet(self, head):
        with pytest.raises(UsageError, match="has no keys for the fleet lab"):
            self.place(head)
        call("ca", "lab")
        keys = Keys.of(head.resolve() / ".hooke", "lab")
        assert self.place(head).keys == (str(keys.ca), str(keys.machine), str(keys.machine))

    def test_a_certificate_that_has_ended_is_told_before_anything_runs(self, head):
        authority = Authority.make("lab", now=time.time(), valid_s=3600.0)
        certified(authority, head / ".hooke", "laptop", valid_s=-1.0, at="head:8788")
        with pytest.raises(UsageError, match="hooke fleet join head:8788"):
            self.place(head)

    @pytest.mark.parametrize(
        "more",
        ['fleet = "../lab"', "fleet = 7", 'fleet = "lab"\ntls_ca = "a"\ntls_cert = "b"\ntls_key = "c"'],
    )
    def test_what_makes_no_sense_is_refused(self, head, more):
        with pytest.raises(ConfigError, match=r"places\.far"):
            self.place(head, more)
