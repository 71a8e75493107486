"""Replicas whose models have processes of their own, behind the front: a model that dies costs no replica, and no request that may be sent again."""

import json
import re
import subprocess
import sys
import time
import urllib.error

import psutil
import pytest
from tests.services.supervisor.supervised import SERVICE, gone, kill, post

pytestmark = pytest.mark.needs("processes")

APART = (
    SERVICE.replace("idempotent=True", "idempotent=True, model='process'").replace("async def", "def")
    + "\n    def pid(self) -> int:\n        return os.getpid()\n"
)


def model_of(replica):
    """The process of its model."""
    (model,) = [
        one
        for one in psutil.Process(replica["pid"]).children()
        if "hooke.serving.model_process.model_main" in one.cmdline()
    ]
    return model.pid


@pytest.mark.long
def test_killed_models_of_an_idempotent_service_cost_no_request_and_no_replica(supervised, folder, load):
    (folder / "apart.py").write_text(APART)
    service = supervised("--replicas", "2", file="apart.py")
    facts = service.until_ready(2)
    pids = {one["pid"] for one in facts["replicas"]}
    asking = load(service)
    time.sleep(1.5)
    for count, replica in enumerate(facts["replicas"], 1):
        kill(model_of(replica))
        service.until(rf"the model of replica {replica['replica']} died .*killed by SIGKILL \(9\)")
        service.until(r"the model of replica \d is back", count=count)
    counted = asking.end()
    assert counted["failed"] == {}
    assert counted["right"] > 50
    assert {one["pid"] for one in service.until_ready(2)["replicas"]} == pids
    assert service.end() == 0
    (run,) = (folder / ".hooke" / "runs").iterdir()
    words = [sys.executable, "-m", "hooke", "show", "--json", run.name]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True, timeout=180)
    shown = json.loads(done.stdout)
    assert [each["event"] for each in shown["replicas"]].count("model_died") == 2


@pytest.mark.long
def test_memory_of_the_model_counts_and_nothing_is_left(supervised, folder):
    (folder / "apart.py").write_text(APART)
    service = supervised("--replicas", "1", "--memory", "300MiB", file="apart.py")
    first = service.until_ready(1)["replicas"][0]
    model = model_of(first)
    assert post(service, "/grow", {"mb": 400}) == model
    service.until(r"replica 1 gets nothing new: its memory is .*, above the limit of 300 MiB")
    service.until(r"replica 1 ended after .*, with nothing left to answer")
    second = service.until_ready(1)["replicas"][0]
    left = model_of(second)
    assert gone([model])
    kill(second["pid"])
    assert gone([left])
    service.until_ready(1)
    assert service.end() == 0


@pytest.mark.long
def test_a_request_that_kills_each_model_that_gets_it_is_tried_once_more_and_no_further(supervised, folder):
    (folder / "apart.py").write_text(APART + "\n    def dies(self) -> None:\n        os._exit(3)\n")
    service = supervised("--replicas", "3", file="apart.py")
    service.until_ready(3)
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(service, "/dies", {})
    assert refused.value.code == 503
    assert post(service, "/predict", {"rows": [1]}) == [2], "the third one was not asked"
    service.until(r"the model of replica \d is back", count=2)
    assert len(re.findall(r"the model of replica \d died", service.text)) == 2
    assert service.end() == 0
