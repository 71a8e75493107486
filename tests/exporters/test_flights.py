"""The flights example as files of other schedulers. That they compute the same there, `make soak-exports` shows and records."""

import json
import sys
from dataclasses import replace

import pytest
from benchmarks.exported_flights import EXAMPLE, RECORD, SCHEDULERS, with_others

from hooke.exporters.targets import ExportOrder, export
from hooke.project.folder import Project
from hooke.project.pipeline_file import load_entry
from hooke.project.settings import Settings, StoreSettings


def test_the_record_is_of_the_schedulers_that_tests_run():
    record = json.loads(RECORD.read_text("utf-8"))
    versions = {name: each["version"] for name, each in record["targets"].items()}
    assert versions == {name: each.version() for name, each in SCHEDULERS.items()}, "make soak-exports"
    assert with_others({"facts": record["facts"], "targets": {}})["targets"] == record["targets"]
    assert with_others({"facts": {}, "targets": {}})["targets"] == {}


@pytest.mark.long
@pytest.mark.needs("cpu")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_flights_can_be_exported_and_their_files_are_as_long_as_those_that_ran(
    name, tmp_path, monkeypatch
):
    monkeypatch.setattr(sys, "path", list(sys.path))
    pipeline, file = load_entry(str(EXAMPLE / "flights.py"))
    image = SCHEDULERS[name].options[-1] if SCHEDULERS[name].options else ""
    order = ExportOrder(target=name, pipeline=pipeline, file=file, out=tmp_path / "flights.py", image=image)
    ran = json.loads(RECORD.read_text("utf-8"))["targets"][name]["lines"]
    shared = Settings(store=StoreSettings(url="s3://results/flights"))  # which pods need
    text = export(order, replace(Project.at(EXAMPLE), settings=shared))
    assert abs(len(text.splitlines()) - ran) < 20, "make soak-exports"
    for each in ("flights", "flight_features", "flight_models"):
        sys.modules.pop(each, None)
