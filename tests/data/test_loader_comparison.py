"""The comparison with other loaders: each row once an epoch, and a page whose figures are those of the record."""

import json

import pytest
from benchmarks.loaders.__main__ import PAGE, RECORD, page_of, share_of, told_by
from benchmarks.loaders.peers import BATCH, CASES, PEERS, inflation, prepared

pytestmark = pytest.mark.needs("processes")


def test_the_page_is_what_the_record_says():
    assert PAGE.read_text("utf-8") == page_of(json.loads(RECORD.read_text("utf-8")))


def test_the_record_has_every_loader_with_each_row_once():
    record = json.loads(RECORD.read_text("utf-8"))
    missing = {(name, case) for name, (_, cases, _) in PEERS.items() for case in cases}
    for told in record["loaders"]:
        missing.discard((told["name"], told["case"]))
        assert told["rows"] == told["distinct"] == told["epochs"][0]["rows"] <= CASES[told["case"]], told
    assert {f"{name}: {case}" for name, case in missing} == set(record["missing"])
    assert record["machine"] and record["seed"]


@pytest.mark.long
@pytest.mark.needs("root")  # a network of its own
@pytest.mark.parametrize("name", ["Hooke", "Hooke, first epoch", "DataLoader, sliced", "grain"])
def test_a_loader_is_measured_beside_a_read_of_the_same_bytes(name, tmp_path):
    cases = [case for case in ("table", "columns", "4 KiB") if case in PEERS[name][1]]
    for case in cases:
        (tmp_path / case).mkdir()
        prepared(case, tmp_path / case, 40 * BATCH)
    told = list(told_by(name, cases, tmp_path, 1))
    assert [each["case"] for each in told] == cases
    for each in told:
        assert each["distinct"] == 40 * BATCH
        assert all(share_of(each, beside, "cpu") > 0 for beside in each["beside"])


def test_inflation_is_1_for_a_shuffle_and_a_batch_for_none():
    import numpy as np

    rows = BATCH * 2000
    shuffled = np.random.default_rng(3).permutation(rows).reshape(-1, BATCH)
    for block in (1, 64):
        assert inflation(list(shuffled), block) == {
            "blocks": pytest.approx(1, abs=0.1),
            "sorted": pytest.approx(1, abs=0.1),
        }
    in_order = list(np.arange(rows).reshape(-1, BATCH))
    assert inflation(in_order, BATCH)["blocks"] == pytest.approx(BATCH, rel=0.05)
    assert inflation(in_order, 64)["sorted"] == pytest.approx(BATCH, rel=0.05)
