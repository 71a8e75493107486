"""A process that is a fork of this one, as if it had been started."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from hooke.processes.fork import ForkedProcess, fork_serves


def forked(main):
    """A child that runs `main`."""
    pid = os.fork()
    if not pid:
        try:
            main()
        finally:
            os._exit(7)
    return ForkedProcess(pid)


def test_a_forked_process_tells_its_exit_code():
    process = forked(lambda: None)
    assert process.wait(20) == process.poll() == process.returncode == 7


def test_a_forked_process_is_awaited_for_so_long_and_killed():
    process = forked(signal.pause)
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.kill()
    assert process.wait(20) == -signal.SIGKILL
    process.kill()  # which it need not be any more


def test_a_process_that_was_awaited_elsewhere_has_ended():
    process = forked(lambda: None)
    os.waitpid(process.pid, 0)
    assert process.wait(20) == 0


def test_beside_threads_or_open_files_no_fork_serves(tmp_path):
    with (tmp_path / "file").open("w"):  # as pytest has, too
        assert not fork_serves()


SERVES = """
import os, sys
from hooke.processes.fork import fork_serves
{before}
print(fork_serves())
"""


def serves(*options, before="", cwd=None):
    command = [sys.executable, *options, "-c", SERVES.format(before=textwrap.dedent(before))]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd).stdout == "True\n"


@pytest.mark.needs("cpu")
@pytest.mark.skipif(sys.platform != "linux", reason="a fork serves on Linux only")
def test_a_fork_serves_in_a_process_that_has_only_imported(tmp_path):
    assert serves("-P")
    assert serves("-P", "-O", "-W", "error", cwd=tmp_path)


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("options", "before"),
    [
        ((), ""),  # modules may come from the working directory
        (("-P", "-X", "utf8"), ""),
        (("-P", "-I"), ""),
        (("-P", "-s"), ""),
        (("-P",), "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"),
        (("-P",), "sys.settrace(lambda *_: None)"),
        (("-P",), "sys.setprofile(lambda *_: None)"),
        (("-P",), "kept = open(os.devnull)"),
        (("-P",), "sys.stdin = None"),
    ],
)
def test_no_fork_serves_where_it_would_differ(options, before):
    assert not serves(*options, before=before)


FORKS = """
import os, sys
from hooke.processes.fork import fork_with_socket
import tests.support.state_process as module

extra = os.dup(0)
os.set_inheritable(extra, True)
sys.stdout.write("once ")
process, ours = fork_with_socket(module.__name__, module.main)
try:
    ours.sendall(b"who?")
    print(ours.makefile().readline().strip(), flush=True)
    ours.close()
finally:
    print("then", process.wait(20))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a fork serves on Linux only")
def test_a_fork_is_as_a_process_that_was_started():
    command = [sys.executable, "-P", "-c", FORKS, "its", "own"]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True).stdout
    line, last = printed.splitlines()
    once, found = line.split(" ", 1)
    assert (once, last) == ("once", "then 0")
    assert json.loads(found) == {
        "arguments": 1,
        "collects": True,
        "descriptors": 4,
        "file": "state_process.py",
        "handler": True,
        "leads": True,
        "names": ["__doc__", "__file__", "__loader__", "__name__", "__package__", "__spec__"],
        "stdin": "/dev/null",
    }
