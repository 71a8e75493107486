"""GPU shares. No test here ran on a machine with a GPU: what is tested is who gets which device, and that workers see it."""

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooke.base.errors import UsageError
from hooke.processes.devices import ContainerMemory, Devices, devices_of_this_machine, machine_memory


def test_whole_devices_are_exclusive():
    devices = Devices(("0", "1", "2"))
    assert devices.take("a", 2) == ("0", "1")
    assert devices.take("b", 2) is None
    assert devices.take("b", 1) == ("2",)
    devices.release(("0", "1"), 2)
    assert devices.take("b", 2) == ("0", "1")
    assert devices.take("none", 0) == ()


def test_shares_fill_one_device_before_the_next():
    devices = Devices(("0", "1"))
    assert devices.take("a", 0.5) == ("0",)
    assert devices.take("b", 0.5) == ("0",)
    assert devices.take("c", 0.5) == ("1",)
    assert devices.take("d", 1) is None
    devices.release(("0",), 0.5)
    devices.release(("0",), 0.5)
    assert devices.take("d", 1) == ("0",)


@pytest.mark.parametrize(
    ("ids", "amount", "said"),
    [((), 1, "has none"), (("0",), 2, "has 1"), (("0", "1"), 1.5, "whole number")],
)
def test_what_never_fits_is_refused_with_the_reason(ids, amount, said):
    with pytest.raises(UsageError) as caught:
        Devices(ids).take("train", amount)
    assert said in str(caught.value)
    assert "'train'" in str(caught.value)


@pytest.mark.needs("cpu")
@given(st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0]), max_size=30))
def test_no_device_is_ever_given_out_twice(amounts):
    devices = Devices(("0", "1", "2"))
    held: list[tuple[tuple[str, ...], float]] = []
    for amount in amounts:
        got = devices.take("t", amount)
        if got is None:
            assert held, "with nothing held everything fits"
            devices.release(*held.pop(0))
        else:
            held.append((got, amount))
        for name in ("0", "1", "2"):
            assert sum(min(share, 1.0) for ids, share in held if name in ids) <= 1.0


def test_this_machine_and_its_variable():
    there = len(devices_of_this_machine({}))
    assert len(devices_of_this_machine({"CUDA_VISIBLE_DEVICES": ""})) == 0
    assert len(devices_of_this_machine({"CUDA_VISIBLE_DEVICES": "0"})) == min(there, 1)


def test_the_memory_of_the_machine_is_what_psutil_says(tmp_path):
    found = machine_memory()
    assert found.total == psutil.virtual_memory().total == machine_memory(tmp_path / "none").total
    assert 0 < found.available < found.total


@pytest.mark.parametrize(
    ("events", "limit", "found"),
    [
        ("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "524288000\n", (3, 524288000)),
        ("low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n", "max\n", (1, None)),
        ("something else\n", "1\n", (0, None)),
        (None, None, (0, None)),
    ],
)
def test_a_container_knows_what_the_kernel_killed_in_it(tmp_path, events, limit, found):
    places = [(tmp_path / "nothing", tmp_path / "nothing"), (tmp_path / "events", tmp_path / "limit")]
    if events is not None:
        places[1][0].write_text(events)
        places[1][1].write_text(limit)
    assert ContainerMemory.now(places) == found
