"""Rented fleets: `hooke fleet up` against a server of Lambda Cloud's API whose instances are processes, as it is typed."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.support.network_proxy import ChaosProxy

from hooke.base.errors import UsageError
from hooke.certificates.key_files import Address
from hooke.fleets.membership import admit_machines, make_authority
from hooke.fleets.renting import RentOptions, user_data_of
from hooke.project.folder import Project
from hooke.providers.lambda_cloud import LambdaApi, LambdaCloud, over_https
from hooke.testing.lambda_cloud import LambdaServer

HOOKE = [sys.executable, "-m", "hooke"]
JOB = """
    import time
    from pathlib import Path

    from hooke import pipeline, task

    @task(retries=3)
    def square(x: int) -> int:
        time.sleep(0.4)
        with Path("SEEN").open("a") as file:
            file.write(f"{x}\\n")
        return x * x

    @task
    def total(squares: list) -> int:
        return sum(squares)

    @pipeline
    def job(n: int):
        return total(square.map(range(n)))
"""
USD = 0.2


class Rented:
    """A project with a fleet of rented machines."""

    def __init__(self, folder, cloud, *, machines=8, more=""):
        folder = folder / "project"
        folder.mkdir()
        self.folder, self.cloud = folder, cloud
        self.ports = join, scheduler = free_port(), free_port()
        self.seen = folder / "seen"
        self.seen.touch()
        (folder / "job.py").write_text(
            JOB.replace("    ", "", 1).replace("\n    ", "\n").replace("SEEN", str(self.seen))
        )
        (folder / "key").write_text(cloud.key)
        (folder / "key").chmod(0o600)
        (folder / "hooke.toml").write_text(f"""
[fleets.pool]
provider = "lambda"
instance = "cpu_4x_general"
price = "lambda"
ssh_key = "mine"
key_file = "{folder / "key"}"
endpoint = "{cloud.endpoint}"
owner = "test"
request_every = "1ms"
launch_every = "20ms"
list_every = "200ms"
listed_within = "10s"
join = "127.0.0.1:{join}"
scheduler = "tls://127.0.0.1:{scheduler}"
command = ["{sys.executable}", "-m", "dask", "worker", "tls://127.0.0.1:{scheduler}", "--nthreads", "1", "--no-nanny", "--local-directory", "."]
machines = {machines}
max_usd_per_hour = {machines * USD}
{more}

[places.pool]
engine = "dask"
address = "tls://127.0.0.1:{scheduler}"
fleet = "pool"
""")

    def popen(self, *words):
        return subprocess.Popen(
            [*HOOKE, *words],
            cwd=self.folder,
            env=os.environ | {"HOOKE_SINKS": "none"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def done(self, process, code=0):
        out, _ = process.communicate(timeout=300)
        assert process.returncode == code, out
        return out


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait(condition, within_s=200.0, process=None):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


@pytest.mark.long
@pytest.mark.needs("processes")
def test_a_run_on_eight_rented_machines_that_loses_three_at_once_ends_right_within_its_budget(tmp_path):
    items = 160
    with LambdaServer(tmp_path / "cloud") as cloud:
        rented = Rented(tmp_path, cloud)
        words = (
            "fleet",
            "up",
            "pool",
            "--yes",
            "--budget",
            "$0.20",
            "--",
            *HOOKE,
            "run",
            "job.py",
            "--on",
            "pool",
            "--n",
            str(items),
        )
        process = rented.popen(*words)
        wait(lambda: len(rented.seen.read_text().split()) >= 20, process=process)
        running = [each for each in cloud.account.instances if cloud.runs(each)]
        assert len(running) == 8
        for each in running[:3]:
            cloud.account.preempt(each)
        done = len(rented.seen.read_text().split())
        out = rented.done(process)
        assert done < items, "the run was under way"
        assert f"\n{sum(x * x for x in range(items))}\n" in out
        assert out.count("Lambda Cloud has preempted it") == 3
        usd = float(re.search(r"no machines are left; they have cost \$([\d.e-]+)", out)[1])
        assert 0 < usd <= 0.20
        assert not cloud.account.billing()
        assert cloud.account.billed_usd() <= 0.20
        assert len(set(cloud.account.launches)) == len(cloud.account.launches)
        sees_no_key(rented)
        shown = rented.done(rented.popen("show"))
        assert re.search(
            r"cost so far \$0\.00\d+, of the fleet pool while it ran; their ledger: hooke fleet why pool",
            shown,
        )
        assert re.search(r"\$0\.00\d+", rented.done(rented.popen("runs")))


def sees_no_key(rented):
    """Neither the user data nor any file of the project has the API key, except its own."""
    key = rented.cloud.key
    assert not any(key in json.dumps(dict(each.wanted)) for each in rented.cloud.account.instances.values())
    files = [each for each in (rented.folder / ".hooke").rglob("*") if each.is_file()]
    assert files
    assert not any(key.encode() in each.read_bytes() for each in files)


@pytest.mark.long
@pytest.mark.needs("processes")
def test_without_work_the_fleet_goes_to_zero_by_itself_and_down_ends_it_sooner(tmp_path):
    """Behind a router: machines reach this one only at an address that another process hands on."""
    with LambdaServer(tmp_path / "cloud") as cloud, contextlib.ExitStack() as routers:
        rented = Rented(tmp_path, cloud, machines=1, more='idle = "2s"\nlisten = "127.0.0.2"')
        for port in rented.ports:
            routers.enter_context(ChaosProxy(("127.0.0.2", port), listen=("127.0.0.1", port)))
        out = rented.done(rented.popen("fleet", "up", "pool", "--yes"))
        assert "a worker has joined tls://127.0.0.1:" in out
        assert "there was no work for 2" in out and "all machines are ended" in out
        assert not cloud.account.billing()
        toml = rented.folder / "hooke.toml"
        toml.write_text(toml.read_text().replace('"2s"', '"1h"'))
        process = rented.popen("fleet", "up", "pool", "--yes")
        wait(lambda: cloud.account.billing(), process=process)
        assert rented.done(rented.popen("fleet", "down", "pool")).endswith("pool: 0 machines\n")
        out = rented.done(process, code=130)
        assert "`hooke fleet down` was called; all machines are ended" in out
        assert not cloud.account.billing()


@pytest.mark.long
@pytest.mark.needs("processes")
def test_when_its_keeper_is_killed_a_machine_stops_working_and_reap_ends_the_bill(tmp_path):
    """Its worker ends without the scheduler, and the machine powers itself off. The next `hooke fleet reap`, as by cron, ends the bill."""
    with LambdaServer(tmp_path / "cloud") as cloud:
        rented = Rented(tmp_path, cloud, machines=1)
        process = rented.popen("fleet", "up", "pool", "--yes")
        wait(lambda: "first task" in process.stdout.readline(), process=process)
        (machine,) = cloud.account.billing()
        process.kill()
        process.communicate()
        assert cloud.runs(machine.id)
        wait(lambda: machine.off)
        wait(lambda: not cloud.runs(machine.id))
        assert [each.id for each in cloud.account.billing()] == [machine.id]
        assert rented.done(rented.popen("fleet", "reap")).endswith("no machines are left\n")
        assert not cloud.account.billing()
        sees_no_key(rented)


@pytest.mark.long
@pytest.mark.needs("processes")
def test_a_signal_or_a_price_that_rises_in_between_ends_what_was_rented(tmp_path):
    sent = []

    def watch(what, path):
        if (what, path) != ("done", "/instance-operations/launch"):
            return
        if not sent:
            sent.append(process.send_signal(signal.SIGTERM))
        elif not stops:
            cloud.account.cents["cpu_4x_general"] = 25

    with LambdaServer(tmp_path / "cloud", watch=watch) as cloud:
        rented = Rented(tmp_path, cloud, machines=2)
        stops = True
        process = rented.popen("fleet", "up", "pool", "--yes")
        assert "SIGTERM came; all machines are ended" in rented.done(process, code=130)
        before = len(cloud.account.launches)
        assert before and not cloud.account.billing()
        stops = False
        out = rented.done(rented.popen("fleet", "up", "pool", "--yes"), code=1)
        assert "costs $0.25/h now" in out and "no machines are left; they have cost" in out
        assert len(cloud.account.launches) == before + 1 and not cloud.account.billing()


@pytest.mark.long
@pytest.mark.needs("processes")
def test_a_machine_whose_certificate_nobody_renews_powers_itself_off(tmp_path):
    project = Project.at(tmp_path / "head")
    make_authority(project, "pool", valid_s=3600.0)
    address = Address("127.0.0.1", free_port())
    rent, _ = RentOptions.split({"join": str(address), "certificate": "5s", "command": ["sleep", "600"]})
    with LambdaServer(tmp_path / "cloud") as cloud, ThreadPoolExecutor(1) as pool:
        admitting = pool.submit(admit_machines, project, "pool", address, for_s=8.0, say=lambda line: None)
        provider = LambdaCloud(
            "pool",
            user_data=user_data_of(project, "pool", rent),
            logs=tmp_path,
            usd_per_hour=USD,
            instance="cpu_4x_general",
            ssh_key="mine",
            api=LambdaApi(cloud.key, over_https(cloud.endpoint), request_s=0.001),
        )
        machine = cloud.account.instances[provider.launch("pool-1-1")]
        assert admitting.result() == 1  # from now on nobody renews
        wait(lambda: machine.off)
        assert "the command was ended before it expires" in cloud.log(machine.id)
        wait(lambda: not cloud.runs(machine.id))
        assert cloud.account.billing() == [machine], "a power-off does not stop the bill"
        provider.release(machine.id)
        wait(lambda: not cloud.account.billing())


@pytest.mark.long
@pytest.mark.needs("processes")
def test_nothing_is_rented_without_consent_or_beyond_the_limits(tmp_path):
    with LambdaServer(tmp_path / "cloud") as cloud:
        rented = Rented(tmp_path, cloud, machines=2)
        out = rented.done(rented.popen("fleet", "up", "pool"), code=2)
        assert "pool: 2 x cpu_4x_general at $0.2/h: $0.4/h together" in out
        assert "there is no terminal" in out and "add --yes" in out
        out = rented.done(rented.popen("fleet", "up", "pool", "--yes", "--machines", "3"), code=2)
        assert "may have at most 2 machines, not 3" in out
        out = rented.done(rented.popen("fleet", "scale", "pool", "1"), code=2)
        assert "hooke fleet up pool --machines 1" in out
        out = rented.done(rented.popen("fleet", "up", "pool", "--yes", "--", "no-such"), code=2)
        assert "program 'no-such' not found" in out
        cloud.account.cents["cpu_4x_general"] = 25
        out = rented.done(rented.popen("fleet", "up", "pool", "--yes"), code=1)
        assert "costs $0.25/h now, more than the $0.20/h of the fleet's price" in out
        cloud.account.cents["cpu_4x_general"] = 20
        out = rented.done(rented.popen("fleet", "up", "pool", "--yes", "--budget", "$0.001"), code=1)
        assert "of the budget of $0.001 are spent" in out
        (first, second) = os.openpty()
        asked = subprocess.Popen(
            [*HOOKE, "fleet", "up", "pool"],
            cwd=rented.folder,
            stdin=second,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.write(first, b"n\n")
        assert "rent them? [y/N]" in asked.communicate(timeout=60)[1]
        os.close(first)
        os.close(second)
        assert not cloud.account.launches or not cloud.account.billing()


@pytest.mark.parametrize(
    ("listen", "here", "reached"),
    [
        ("", "head.example.com:8788", "head.example.com:8788"),
        ("10.0.0.5", "10.0.0.5:8788", "10.0.0.5:8788"),
        ("0.0.0.0", "0.0.0.0:8788", "127.0.0.1:8788"),
        ("[::]", "[::]:8788", "[::1]:8788"),
        ("::", "[::]:8788", "[::1]:8788"),
    ],
)
def test_what_machines_connect_to_may_be_another_address_than_what_listens_here(listen, here, reached):
    options, rest = RentOptions.split({"join": "head.example.com:8788", "listen": listen, "owner": "me"})
    address = Address.parse(options.join)
    assert (str(options.here(address)), str(options.reached(address))) == (here, reached)
    assert options.scheduler_address == Address("head.example.com", 8786) and rest == {"owner": "me"}
    for wrong in ("10.0.0.5:8788", "[::]:8788", "a b"):
        with pytest.raises(UsageError, match="listen = .* is not valid") as error:
            RentOptions.split({"join": "head.example.com:8788", "listen": wrong})
        assert "an address of this machine without a port" in error.value.fix
