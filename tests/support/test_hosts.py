"""Hosts share TCP and nothing else, and fail as machines do. Real namespaces, so as root alone."""

import signal
import subprocess
import sys

import psutil
import pytest
from tests.support import environment
from tests.support.hosts import Hosts

from hooke.base.errors import HookeError, UsageError
from hooke.testing.s3_server import S3Server

pytestmark = pytest.mark.needs("hosts")

ECHO = """
import socket, sys
server = socket.create_server((sys.argv[1], 7000))
print("ready", flush=True)
while True:
    connection, _ = server.accept()
    connection.sendall(connection.recv(100))
    connection.close()
"""

ASK = """
import socket, sys
connection = socket.create_connection((sys.argv[1], 7000), timeout=2)
connection.settimeout(2)
connection.sendall(b"word")
print(connection.recv(100).decode())
"""


@pytest.fixture
def lan():
    with Hosts(disk_bytes=32 << 20) as hosts:
        yield hosts


@pytest.fixture
def pair(lan):
    """A host that asks, and one that echoes."""
    asking, echoing = lan.start("asking"), lan.start("echoing")
    server = echoing.popen([sys.executable, "-c", ECHO, echoing.address], stdout=subprocess.PIPE, text=True)
    assert server.stdout.readline() == "ready\n"
    yield asking, echoing, server
    server.stdout.close()


def ask(asking, echoing):
    return asking.run([sys.executable, "-c", ASK, echoing.name]).strip()


def unanswered(asking, echoing):
    with pytest.raises(HookeError) as caught:
        ask(asking, echoing)
    return str(caught.value).splitlines()[-1].strip()


def test_hosts_reach_each_other_by_name_and_share_no_files(lan, pair) -> None:
    asking, echoing, _ = pair
    assert ask(asking, echoing) == "word"
    assert asking.run(["hostname"]).strip() == "asking"
    (asking.project / "mine").write_text("here", encoding="ascii")
    assert asking.run(["cat", "mine"]) == "here"
    assert not (echoing.project / "mine").exists()
    assert asking.run(["sh", "-c", "echo $TMPDIR $HOME; pwd"]).split() == [
        "/tmp",
        "/tmp/home",
        "/tmp/project",
    ]


@pytest.mark.parametrize("place", ["/", "/var/tmp", "/dev/shm", "/run", "/tmp"])
def test_what_a_host_writes_stays_there(lan, place, tmp_path) -> None:
    host, other = lan.start("one"), lan.start("other")
    name = f"{place.rstrip('/')}/hooke-test-of-hosts"
    if place == "/":
        with pytest.raises(HookeError, match="Read-only file system"):
            host.run(["touch", name])
        return
    host.run(["touch", name])
    assert host.path(name).exists()
    assert not other.path(name).exists()
    assert not tmp_path.joinpath(name).exists()


def test_a_host_sees_no_process_of_another(lan, pair) -> None:
    asking, echoing, _ = pair
    assert "socket.create_server" not in asking.run(["ps", "ax"])
    assert "socket.create_server" in echoing.run(["ps", "ax", "-ww"])
    assert len(echoing.processes()) == 1


def test_a_cut_host_is_silent_and_comes_back(lan, pair) -> None:
    asking, echoing, server = pair
    third = lan.start("third")
    echoing.cut()
    echoing.cut()
    assert unanswered(asking, echoing) == "TimeoutError: timed out"
    echoing.heal()
    assert ask(asking, echoing) == "word"
    echoing.cut(asking)
    assert unanswered(asking, echoing) == "TimeoutError: timed out"
    assert ask(third, echoing) == "word"
    asking.heal(echoing)
    assert ask(asking, echoing) == "word"
    assert server.poll() is None


def test_a_frozen_host_takes_connections_and_answers_nothing_until_it_thaws(lan, pair) -> None:
    asking, echoing, server = pair
    echoing.freeze()
    assert unanswered(asking, echoing) == "TimeoutError: timed out"
    assert {each.status() for each in echoing.processes()} == {psutil.STATUS_STOPPED}
    echoing.thaw()
    assert ask(asking, echoing) == "word"
    assert server.poll() is None


def test_a_killed_host_closes_no_connection(lan, pair) -> None:
    asking, echoing, server = pair
    waiting = asking.popen(
        [
            sys.executable,
            "-c",
            ASK.replace('sendall(b"word")', 'settimeout(3); print("there", flush=True)'),
            echoing.name,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert waiting.stdout.readline() == "there\n"
    echoing.kill()
    assert server.wait(timeout=60) == -signal.SIGKILL
    assert echoing.processes() == []
    _, complaint = waiting.communicate()
    assert complaint.splitlines()[-1] == "TimeoutError: timed out"


def test_a_full_disk_is_that_host_s_alone(lan) -> None:
    full, other = lan.start("full"), lan.start("other")
    full.fill_disk(leave=4096)
    with pytest.raises(HookeError, match="No space left on device"):
        full.run(["sh", "-c", "head -c 100000 /dev/zero > big"])
    other.run(["sh", "-c", "head -c 100000 /dev/zero > big"])
    full.free_disk()
    full.run(["sh", "-c", "head -c 100000 /dev/zero > big"])


def test_a_limited_host_gets_so_much_cpu_time(lan) -> None:
    host = lan.start("slow")
    host.limit(0.2)
    spent = host.run(
        [
            sys.executable,
            "-c",
            "import time\nend = time.monotonic() + 1\nwhile time.monotonic() < end: pass\nprint(time.process_time())",
        ]
    )
    assert float(spent) < 0.6


def test_a_frozen_and_a_limited_host_end_with_the_network() -> None:
    with Hosts(disk_bytes=8 << 20) as lan:
        host = lan.start("one")
        host.limit(0.5)
        sleeping = host.popen(["sh", "-c", "echo there; exec sleep 1000"], stdout=subprocess.PIPE, text=True)
        assert sleeping.stdout.readline() == "there\n"
        host.freeze()
    assert sleeping.wait(timeout=10) == -signal.SIGKILL
    sleeping.stdout.close()
    assert host.processes() == []


def test_nothing_is_left_when_the_one_who_made_them_is_killed() -> None:
    script = (
        "from tests.support.hosts import Hosts\n"
        "host = Hosts(disk_bytes=8 << 20).start('one')\n"
        "host.popen(['sleep', '1000'])\n"
        "while not host.processes(): pass\n"
        "print(host.pid, *[each.pid for each in host.processes()], flush=True)\n"
        "import time; time.sleep(1000)\n"
    )
    maker = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment()
    )
    there = [psutil.Process(int(pid)) for pid in maker.stdout.readline().split()]
    assert len(there) == 2
    maker.kill()
    maker.communicate()
    _, alive = psutil.wait_procs(there, timeout=20)
    assert alive == []


def test_a_name_is_given_once(lan) -> None:
    lan.start("one")
    with pytest.raises(UsageError, match="there is a host one already"):
        lan.start("one")


def test_a_command_that_fails_or_hangs_says_where(lan) -> None:
    host = lan.start("one")
    with pytest.raises(HookeError, match="sh on host one ended with 3"):
        host.run(["sh", "-c", "exit 3"])
    with pytest.raises(HookeError, match=r"sleep on host one took longer than 0\.2 s"):
        host.run(["sleep", "1000"], timeout_s=0.2)
    assert host.processes() == []


def test_hosts_share_an_s3_server(lan) -> None:
    server, writer, reader = lan.start("s3"), lan.start("writer"), lan.start("reader")
    with S3Server(on=server) as s3:
        assert server.address in s3.environment["AWS_ENDPOINT_URL"]
        put = f"import fsspec; fsspec.filesystem('s3').pipe('{s3.url}/x', b'word')"
        get = f"import fsspec; print(fsspec.filesystem('s3').cat('{s3.url}/x'))"
        writer.run([sys.executable, "-c", put], env=s3.environment)
        assert reader.run([sys.executable, "-c", get], env=s3.environment) == "b'word'\n"
