"""The pods of runs as machines with a ledger: caps, prices and lifetimes, and what `hooke fleet reap` finds of drivers that are gone."""

import json
import re
import time

import pytest
from tests.kubernetes.manifests import namespace, wait
from tests.kubernetes.test_runs import HOME, STORE, Driver, events, running, unended

from hooke.journal.events import AttemptFailed, AttemptFinished, BackendTrouble
from hooke.journal.fleet_events import (
    FleetDecided,
    LaunchAnswered,
    LaunchIntended,
    MachineGone,
    MachineRetired,
)
from hooke.kubernetes.lease import LEASE
from hooke.kubernetes.rights import REAP_RIGHTS, RUN_RIGHTS, role_manifests
from hooke.machines.keeper import records_of

pytestmark = [pytest.mark.needs("kubernetes"), pytest.mark.long, pytest.mark.timeout(600)]

ALL = ("v1/Pod", "batch/v1/Job", "v1/Secret", LEASE)
ROLE = "rbac.authorization.k8s.io/v1/Role"


@pytest.fixture(scope="module")
def driver(cluster, admin):
    name = admin.create(namespace("ledger-"))["metadata"]["name"]
    wait(lambda: admin.list("v1/ServiceAccount", namespace=name)[0])
    yield Driver(cluster, admin, name)
    admin.delete("v1/Namespace", name)


def ledger(driver, run):
    return records_of(driver.host.path(f"{HOME}/.hooke/runs/{run}"))


def of(records, kind):
    return [each for each in records if isinstance(each, kind)]


def left(driver):
    return [name for kind in ALL for name in driver.there(kind)]


def started_in(driver, *words):
    """A run that begins, and its process."""
    before = set(unended(driver))
    process = driver.start("run", *words)
    [run] = wait(lambda: set(unended(driver)) - before)
    return process, run


def test_each_pod_is_in_the_ledger_before_it_is_asked_for_with_its_price_and_within_the_cap(driver):
    driver.configure(workers="[1, 3]", more="usd_per_hour = 0.9\nmax_usd_per_hour = 1.8")
    result = driver.result("job.py:squares", "--on", "pods", "--", "--n", "14", "--hold", "2.5")
    run = result["run"]
    records = ledger(driver, run)
    asked, answered, gone = (of(records, kind) for kind in (LaunchIntended, LaunchAnswered, MachineGone))
    assert {each.usd_per_hour for each in asked} == {0.9}
    assert len(answered) == len(asked) == len(gone), "the ledger ends with nothing left"
    there = most = 0
    for each in sorted([*asked, *gone], key=lambda each: each.at):
        there += 1 if isinstance(each, LaunchIntended) else -1
        most = max(most, there)
    assert most == 2, "two pods at $0.90/h each are all that $1.80/h allows"
    for each in answered:
        [before] = [intended for intended in asked if intended.token == each.token]
        assert records.index(before) < records.index(each)
    wait(lambda: not left(driver), within_s=60)  # their programs have ended; the cluster removes them
    ended = {each.token: each.at for each in gone}
    usd = sum(0.9 * (ended[each.token] - each.at) / 3600 for each in asked)
    _, shown, _ = driver.hooke("show", run)
    assert f"cost so far ${usd:.4g}, of {len(asked)} machines" in shown
    _, listed, _ = driver.hooke("runs")
    assert re.search(rf"{run} .*\${re.escape(f'{usd:.4g}')}", listed), listed
    spent = [each.spent_usd for each in events(driver, run, FleetDecided)]
    assert spent == sorted(spent)
    assert spent[-1] <= usd
    _, why, _ = driver.hooke("fleet", "why", run)
    assert "asking for run-" in why
    assert "no more than $1.8/h is allowed" in why
    assert "is ended: the end of the run ends all" in why


def test_pods_that_are_old_are_replaced_and_nothing_is_lost(driver):
    driver.configure(workers="1", more='lifetime = "30 s"')
    words = ("job.py:slowly", "--on", "pods", "--", "--n", "3", "--hold", "15.5")
    run = driver.result(*words, within_s=400)["run"]
    reasons = [each.reason for each in of(ledger(driver, run), MachineRetired)]
    assert "it is older than 30.0 s" in reasons, reasons
    assert not events(driver, run, AttemptFailed)
    assert len(events(driver, run, AttemptFinished)) == 3
    wait(lambda: not left(driver), within_s=60)


AGAIN = """
import os, time
from hooke import Temporary, pipeline, task

@task(retries=1)
def twice(marks, began):
    try:
        os.close(os.open(f"{marks}/tried", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return True
    raise Temporary("not yet", delay_s=max(3 * (time.time() - began), 25))

@task
def after(done):
    return done

@pipeline
def rests(marks: str, began: float):
    return after(twice(marks, began))
"""


def test_a_run_that_can_do_nothing_until_a_retry_has_no_pod_until_shortly_before(driver):
    driver.configure(workers="[0, 2]", more="usd_per_hour = 0.9")
    driver.put("again.py", AGAIN)
    # The retry comes after three times as long as it took until the first pod worked, so a slow machine tests the same; and later than
    # three times the eight seconds that a start is taken for where none was seen.
    words = ("again.py:rests", "--on", "pods", "--", "--marks", STORE, "--began", str(time.time()))
    result = driver.result(*words, within_s=500)
    run, records = result["run"], ledger(driver, result["run"])
    [failed] = events(driver, run, AttemptFailed)
    decided = [event.reason for event in events(driver, run, FleetDecided)]
    assert len(of(records, LaunchIntended)) == 2, (failed, decided, records)
    first, second = of(records, LaunchIntended)
    gone = of(records, MachineGone)[0]
    assert gone.at < failed.at + 60
    assert gone.at < second.at < failed.at + failed.failure.delay_s, "it is asked for before the retry"
    wait(lambda: not left(driver), within_s=60)


def test_reap_removes_what_a_killed_driver_left_and_shows_that_nothing_is_left(driver):
    """Its pod cannot start, so nothing else would ever end it; a run beside it goes on."""
    driver.configure(workers="1")
    with driver.held():
        living, beside = started_in(
            driver, "job.py:slowly", "--on", "pods", "--json", "--", "--n", "2", "--hold", "1"
        )
        wait(lambda: running(driver, 1) and driver.there("v1/Pod"))
        driver.configure(workers="1", more="gpus = 1")
        killed, run = started_in(driver, "job.py:squares", "--on", "pods", "--", "--n", "6")
        wait(lambda: events(driver, run, BackendTrouble))
        driver.host.end(killed)
        killed.communicate()
        role = role_manifests(RUN_RIGHTS, account="runner", namespace="")[1]["rules"]
        code, printed, said = driver.hooke("fleet", "reap", "pods")
        assert code != 0
        assert 'cannot list resource "leases"' in said, said
        assert "hooke fleet rbac pods --reap" in said
        more = role_manifests((*RUN_RIGHTS, *REAP_RIGHTS), account="runner", namespace="")[1]["rules"]
        driver.admin.patch(ROLE, "runner", {"rules": more}, namespace=driver.namespace)
        try:
            code, printed, said = driver.hooke("fleet", "reap", "pods", within_s=180)
            assert code == 0, said
            assert printed == (
                "pods: of drivers that are gone there are 0 pods, 0 jobs, 0 secrets, 0 services, 0 leases\n"
            )
            assert (
                f"looked in the namespace {driver.namespace} for pods, jobs, secrets, services, leases"
                in said
            )
            assert re.search(rf"of run {run} is gone; it had left 1 pod, 1 job, 1 secret, 1 lease", said), (
                said
            )
            assert re.search(rf"of run {beside} lives; it keeps 1 pod, 1 job, 1 secret, 1 lease", said), said
            assert of(ledger(driver, run), MachineGone), "its ledger says so, too"
            here = f"hooke-{driver_of(driver, beside)}"
            assert all(name.startswith(here) for name in left(driver)), left(driver)
        finally:
            driver.admin.patch(ROLE, "runner", {"rules": role}, namespace=driver.namespace)
    printed, said = living.communicate(timeout=240)
    assert living.returncode == 0, said
    assert not events(driver, beside, AttemptFailed)
    wait(lambda: not left(driver), within_s=60)


def driver_of(driver, run):
    [lease] = driver.admin.list(LEASE, namespace=driver.namespace, labels=f"hooke.dev/run={run}")[0]
    return lease["metadata"]["labels"]["hooke.dev/driver"]


def test_a_driver_that_is_killed_leaves_a_lease_and_a_resumed_run_takes_up_the_ledger(driver):
    driver.configure(workers="1", more="usd_per_hour = 3.6")
    process, run = started_in(driver, "job.py:slowly", "--on", "pods", "--", "--n", "2", "--hold", "7.5")
    wait(lambda: running(driver, 1))
    driver.host.end(process)
    process.communicate()
    before = ledger(driver, run)
    assert not of(before, MachineGone)
    code, printed, said = driver.hooke("resume", run, "--json")
    assert code == 0, said
    records = ledger(driver, run)
    assert records[: len(before)] == before
    tokens = {each.token for each in of(records, LaunchIntended)}
    assert len(tokens) == 2
    assert {each.token for each in of(records, MachineGone)} == tokens, "also what the killed driver had"
    began, *_, ended = (each.at for each in records)
    _, shown, _ = driver.hooke("show", run, "--json")
    assert 0 < json.loads(shown)["cost"]["usd"] < 2 * 3.6 * (ended - began) / 3600
    wait(lambda: not left(driver), within_s=60)
