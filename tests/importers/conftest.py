import csv

import pytest

from hooke.importers.neptune import ImportOptions, import_neptune
from hooke.project.folder import Project
from hooke.running.run import Run


def bring(project, path, **wanted):
    return list(import_neptune(project, ImportOptions(path=path, **wanted)))


def brought(project, path, **wanted):
    (done,) = bring(project, path, **wanted)
    assert done.error is None, str(done.error)
    return done, Run(project, done.run)


def content(run, path):
    (found,) = [each for each in run.logged().artifacts if each.path == path]
    return found.file.read_text(encoding="utf-8")


def table(run, path):
    return list(csv.DictReader(content(run, path).splitlines(keepends=True)))


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "project"
    root.mkdir()
    return Project.find(root)
