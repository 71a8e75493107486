"""Reading a project's copy of a model: what it is checked for, and what is said of it."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hooke
from hooke.base.errors import CorruptObject, HookeError, UntrustedModel, UsageError
from hooke.models.bundle import seal
from hooke.models.format import LoadOptions
from hooke.models.formats.pickled import PickleFormat
from hooke.models.registry_protocol import DIGEST, RegisteredVersion
from hooke.project.folder import Project
from hooke.registry.loaded_models import code_of, load_version, models_of, registry_uri
from hooke.tracking.tracker import MUTED, logging_into


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return Project.find(tmp_path)


def kept(project: Project, model: object, *, known: bool = True) -> RegisteredVersion:
    """A pickle in the project's copies, as `register` leaves it."""
    models = models_of(project)
    folder = models.folder / "new"
    folder.mkdir(parents=True)
    PickleFormat().save(model, folder, LoadOptions(label="m"))
    digest, _ = seal(folder, format="pickle", details={}, code=code_of(model), libraries={})
    folder.rename(models.copy(digest))
    if known:
        models.known.add(digest, "a test")
    return RegisteredVersion(name="m", number=1, tags={DIGEST: digest})


def test_a_known_pickle_is_read_and_another_is_not(project):
    assert load_version(project, kept(project, {"a": 1})) == {"a": 1}
    with pytest.raises(UntrustedModel, match="m:1 is a pickle that this project does not trust"):
        load_version(project, kept(project, {"a": 2}, known=False))


def test_a_copy_without_its_manifest_is_said(project):
    version = kept(project, {"a": 1})
    (models_of(project).copy(version.digest) / "hooke.json").unlink()
    with pytest.raises(CorruptObject, match="has no manifest") as refused:
        load_version(project, version)
    assert "remove it" in refused.value.fix


@pytest.mark.parametrize("digest", ["../../etc", "a" * 63, "A" * 64, "a" * 63 + "/"])
def test_a_tag_that_is_no_digest_names_no_folder(project, digest):
    with pytest.raises(CorruptObject, match="the digest of m:1 is not valid"):
        load_version(project, RegisteredVersion(name="m", number=1, tags={DIGEST: digest}))


def test_what_others_registered_is_left_to_mlflow(project):
    with pytest.raises(HookeError, match="was not registered by Hooke") as refused:
        load_version(project, RegisteredVersion(name="m", number=1))
    assert "mlflow.pyfunc.load_model('models:/m/1')" in refused.value.fix


def test_weights_go_into_modules_alone(project):
    with pytest.raises(UsageError, match="saved as pickle, so into= does not apply"):
        load_version(project, kept(project, {"a": 1}), into=object())


def test_code_that_changed_since_is_said(project, tmp_path, monkeypatch, caplog):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = Path("doubles_of_this_test.py")
    file.write_text("class Doubles:\n    def predict(self, row):\n        return 2 * row\n")
    import doubles_of_this_test

    version = kept(project, doubles_of_this_test.Doubles())
    with caplog.at_level(logging.WARNING, "hooke"):
        assert load_version(project, version).predict(2) == 4
        assert not caplog.records
        file.write_text("class Doubles:\n    def predict(self, row):\n        return 3 * row\n")
        monkeypatch.delitem(sys.modules, "doubles_of_this_test")
        assert load_version(project, version).predict(2) == 6
    monkeypatch.delitem(sys.modules, "doubles_of_this_test")
    (record,) = caplog.records
    assert "the code of Doubles has changed since m:1 was registered" in record.getMessage()


def test_a_task_that_is_measured_registers_nothing(project):
    with logging_into(MUTED):
        version = hooke.register({"a": 1}, "m", alias="champion")
    assert not version.registered
    assert str(version) == "m is not registered: a task registers nothing while it is measured or debugged"
    assert not project.data.exists()


def test_where_the_registry_is(project, tmp_path, monkeypatch):
    assert registry_uri(project) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert registry_uri(project) == "http://127.0.0.1:5000"
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "sqlite:///models.db")
    assert registry_uri(project) == f"sqlite:///{tmp_path}/models.db"


def test_what_a_killed_process_left_goes_after_a_day(project, tmp_path):
    models = models_of(project)
    project.create()
    with models.making() as young:
        old = models.folder / ".new-old"
        (old / "model").mkdir(parents=True)
        os.utime(old, (0, 0))
        with models.making():
            assert young.is_dir()
            assert not old.exists()
    assert list(models.folder.iterdir()) == []


def test_of_two_that_make_one_model_the_first_is_kept(project):
    models = models_of(project)
    project.create()
    for text in ("first", "second"):
        with models.making() as made:
            (made / "file").write_text(text)
            models.keep(made, "d" * 64)
    assert (models.copy("d" * 64) / "file").read_text() == "first"
    assert [each.name for each in models.folder.iterdir()] == ["d" * 64]


@pytest.mark.needs("cpu")
def test_a_library_that_is_missing_is_named_with_what_installs_it(tmp_path):
    script = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "skops":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import hooke

try:
    hooke.register({"a": 1}, "m", format="skops")
except hooke.MissingExtra as error:
    print(error.what, "|", error.fix)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=180, check=True
    )
    assert done.stdout == (
        "the format 'skops' needs skops, which is not installed | pip install \"hooke-ml[models]\"\n"
    )
