"""What a replica has of the machine: threads and GPUs."""

import json
import os
import subprocess
import sys

import pytest

from hooke import UsageError, service
from hooke.processes.devices import Devices
from hooke.services.shares import Shares
from hooke.serving.service import service_of


def declared(**options):
    class Delay:
        def predict(self, x: int) -> int:
            return x

    return service_of(service(**options)(Delay))


@pytest.mark.parametrize(
    ("options", "most", "cores", "threads"),
    [({}, 1, 8, 8), ({}, 3, 8, 2), ({}, 16, 8, 1), ({"cpus": 4}, 16, 8, 4)],
)
def test_threads_are_the_part_of_the_cores(options, most, cores, threads, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    shares = Shares(declared(**options), most, cores=cores, devices=Devices(()))
    share = shares.take("1")
    assert share.environment["OMP_NUM_THREADS"] == str(threads)
    assert share.environment["CUDA_VISIBLE_DEVICES"] == ""
    assert f"{threads} of {cores} cores" in str(shares)


def test_gpus_are_lent_and_given_back():
    shares = Shares(declared(gpus=1), 2, devices=Devices(("0", "1")))
    assert [shares.take(name).environment["CUDA_VISIBLE_DEVICES"] for name in "ab"] == ["0", "1"]
    with pytest.raises(OSError, match="no GPU is free"):
        shares.take("c")
    shares.release("a")
    assert shares.take("c").devices == ("0",)
    assert "1 of 2 GPUs" in str(shares)


def test_what_an_earlier_supervisor_gave_is_kept():
    shares = Shares(declared(gpus=1), 2, devices=Devices(("0", "1")))
    shares.keep("old", ("1",))
    assert shares.take("new").devices == ("0",)
    shares.release("old")
    assert shares.take("newer").devices == ("1",)
    shares.release("unknown")


def test_replicas_share_a_gpu():
    shares = Shares(declared(gpus=0.5), 2, devices=Devices(("7",)))
    assert [shares.take(name).devices for name in "ab"] == [("7",), ("7",)]
    with pytest.raises(OSError, match="no GPU is free"):
        shares.take("c")


def test_a_language_model_gets_its_gpu_or_a_share_as_any_service():
    class Model:
        def encode(self, prompt):
            return []

        def decode(self, tokens):
            return ""

        def step(self, pieces):
            return []

    def shares(gpus, devices):
        return Shares(service_of(service(protocol="openai", gpus=gpus)(Model)), 2, devices=Devices(devices))

    whole, halves = shares(1, ("0", "1")), shares(0.5, ("7",))
    assert [whole.take(name).environment["CUDA_VISIBLE_DEVICES"] for name in "ab"] == ["0", "1"]
    assert [halves.take(name).environment["CUDA_VISIBLE_DEVICES"] for name in "ab"] == ["7", "7"]
    with pytest.raises(UsageError, match="GPUs a replica"):
        shares(2, ("0", "1"))


def test_a_gpu_that_nobody_asked_for_is_mentioned():
    assert "@service(gpus=1) gives one" in str(Shares(declared(), 1, devices=Devices(("0",))))


@pytest.mark.parametrize(("gpus", "most", "there"), [(1, 1, 0), (1, 3, 2), (0.5, 5, 2), (2, 1, 1)])
def test_more_gpus_than_there_are_is_refused(gpus, most, there):
    with pytest.raises(UsageError, match="GPUs a replica") as refused:
        Shares(declared(gpus=gpus), most, devices=Devices(tuple(map(str, range(there)))))
    assert refused.value.fix


@pytest.mark.parametrize(
    "options",
    [{"cpus": 0}, {"cpus": 1.5}, {"cpus": True}, {"gpus": -1}, {"gpus": 1.5}, {"gpus": "1"}, {"gpus": True}],
)
def test_what_is_no_number_of_them_is_refused(options):
    with pytest.raises(UsageError, match="is not a valid number of"):
        declared(**options)


@pytest.mark.long
@pytest.mark.needs("processes")
def test_the_process_of_one_replica_takes_its_share(tmp_path):
    """Libraries that are there already are told, too."""
    (tmp_path / "threads.py").write_text(
        "import json, os\nimport numpy, torch\nfrom hooke import service\nfrom hooke.services.shares import apply_share\n"
        "from hooke.serving.service import service_of\n"
        "@service(cpus=1)\nclass Delay:\n    def predict(self, x: int) -> int: return x\n"
        "said = apply_share(service_of(Delay))\n"
        "print(json.dumps([said, torch.get_num_threads(), os.environ['OMP_NUM_THREADS']]))\n"
    )
    done = subprocess.run(
        [sys.executable, "threads.py"],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    said, torch_threads, variable = json.loads(done.stdout)
    assert said.startswith("each replica has 1 of ")
    assert (torch_threads, variable) == (1, "1")


def test_what_the_user_set_stays_unless_the_class_says_otherwise(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    found = Shares(declared(), 1, cores=8, devices=Devices(())).take("1", among=4).environment
    assert "OMP_NUM_THREADS" not in found
    assert found["MKL_NUM_THREADS"] == "2"
    found = Shares(declared(cpus=5), 1, cores=8, devices=Devices(())).take("1").environment
    assert found["OMP_NUM_THREADS"] == "5"
