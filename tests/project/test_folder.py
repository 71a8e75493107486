"""Where a project is, and what is said of folders that are not used."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
from tests.fixtures.small_disk import small_disk

from hooke.base.errors import HookeError
from hooke.project import folder as project_folder
from hooke.project.folder import MARKERS, Project

__all__ = ["small_disk"]

JOB = """
    from hooke import pipeline, task

    @task
    def double(x: int) -> int:
        return 2 * x

    @pipeline
    def job(x: int = 1) -> int:
        return double(x)
"""


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project_folder, "_said", set())


def mark(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if name == ".git/":
        (folder / ".git").mkdir()
    else:
        (folder / name).write_text("gitdir: ../.git/worktrees/x\n" if name == ".git" else "", "utf-8")
    return folder


def script(folder: Path, name: str = "job.py") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(textwrap.dedent(JOB), "utf-8")
    return folder / name


def hooke(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hooke", *arguments],
        cwd=folder,
        env=os.environ | {"COLUMNS": "100"} | environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def runs_in(folder: Path, *more: str) -> int:
    done = hooke(folder, "runs", *more)
    assert done.returncode == 0, done.stderr
    return done.stdout.count("finished")


class TestRoot:
    @pytest.mark.parametrize("marker", [*MARKERS, ".git/"])
    def test_each_marker_makes_a_project(self, tmp_path, marker):
        root = mark(tmp_path / "repo", marker)
        file = script(root / "src" / "mypkg")
        for start in (file, file.parent, root):
            assert Project.find(start).root == root
            assert Project.find(start).marker == marker.rstrip("/")

    @pytest.mark.parametrize(("outer", "inner"), list(itertools.product(MARKERS, MARKERS)))
    def test_the_nearest_wins(self, tmp_path, outer, inner):
        top = mark(tmp_path / "mono", outer)
        member = mark(top / "packages" / "one", inner)
        file = script(member / "src" / "one")
        assert Project.find(file).root == member
        assert Project.find(top / "packages").root == top

    def test_without_a_marker_it_is_the_scripts_folder(self, tmp_path):
        assert Project.find(script(tmp_path / "loose")).root == tmp_path / "loose"
        assert Project.find(tmp_path).root == tmp_path
        assert Project.find(tmp_path).marker is None

    def test_a_package_is_no_place_for_it(self, tmp_path):
        file = script(tmp_path / "src" / "mypkg" / "deep")
        for package in (file.parent, file.parent.parent):
            (package / "__init__.py").write_text("", "utf-8")
        assert Project.find(file).root == tmp_path / "src"

    def test_a_home_folder_in_git_is_no_project(self, tmp_path, monkeypatch):
        home = mark(tmp_path / "home", ".git/")
        monkeypatch.setenv("HOME", str(home))
        assert Project.find(script(home / "trial")).root == home / "trial"
        mark(home, "pyproject.toml")
        assert Project.find(home / "trial").root == home

    @pytest.mark.needs("root")  # it makes a file of another user
    @pytest.mark.parametrize("marker", MARKERS)
    def test_nobody_else_makes_my_work_in_a_shared_folder_their_project(self, tmp_path, marker):
        shared = mark(tmp_path / "scratch", marker)
        shared.chmod(0o1777)
        assert Project.find(script(shared / "mine")).root == shared
        os.lchown(shared / marker, 12345, 12345)
        assert Project.find(shared / "mine").root == shared / "mine"

    def test_installed_code_runs_in_the_project_of_the_working_directory(self, tmp_path, monkeypatch):
        root = mark(tmp_path / "repo", "pyproject.toml")
        file = script(tmp_path / "env" / "lib" / "site-packages" / "shop")
        monkeypatch.chdir(root)
        assert Project.find(file).root == root

    def test_a_project_that_is_named_is_not_looked_for(self, tmp_path):
        mark(tmp_path / "repo", ".git/")
        below = tmp_path / "repo" / "below"
        below.mkdir()
        assert Project.at(below).root == below
        assert Project.named(below).root == tmp_path / "repo"
        (below / ".hooke").mkdir()
        assert Project.named(below).root == below
        assert Project.find(below).root == tmp_path / "repo"


@pytest.mark.needs("processes")
class TestCommands:
    def test_runs_of_a_package_are_the_repositorys(self, tmp_path):
        root = mark(tmp_path / "repo", ".git/")
        file = script(root / "src" / "mypkg")
        (file.parent / "__init__.py").write_text("", "utf-8")
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        for at in (root, file.parent, elsewhere):
            done = hooke(at, "run", os.path.relpath(file, at), "--on", "serial")
            assert done.returncode == 0, done.stderr
            assert "note:" not in done.stderr
        assert f"--project {os.path.relpath(root, elsewhere)}" in done.stderr
        assert [path for path in root.rglob(".hooke")] == [root / ".hooke"]
        assert runs_in(root) == runs_in(file.parent) == runs_in(elsewhere, "--project", str(root)) == 3
        assert "no runs yet" in hooke(elsewhere, "runs").stderr

    def test_code_without_a_file_is_in_the_project_of_the_working_directory(self, tmp_path):
        """As a notebook is."""
        root = mark(tmp_path / "repo", "pyproject.toml")
        (root / "notebooks").mkdir()
        code = f"{textwrap.dedent(JOB)}\nfrom hooke import run\nprint(run(job, 4, on='serial').result())\n"
        done = subprocess.run(
            [sys.executable, "-"],
            input=code,
            cwd=root / "notebooks",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.split() == ["8"], done.stderr
        assert (root / ".hooke" / "runs").is_dir()
        assert not (root / "notebooks" / ".hooke").exists()

    def test_neither_a_wheel_nor_git_has_results(self, tmp_path):
        root = tmp_path / "repo"
        file = script(root / "src" / "mypkg")
        (file.parent / "__init__.py").write_text("", "utf-8")
        (root / "pyproject.toml").write_text(
            '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
            '[project]\nname = "mypkg"\nversion = "1"\n[tool.hatch.build.targets.wheel]\npackages = ["src/mypkg"]\n',
            "utf-8",
        )
        subprocess.run(["git", "init", "--quiet", str(root)], check=True)
        assert hooke(file.parent, "run", "job.py", "--on", "serial").returncode == 0
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
        built = subprocess.run(build, cwd=root, capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stdout + built.stderr
        (file,) = tmp_path.glob("mypkg-1-*.whl")
        with zipfile.ZipFile(file) as wheel:
            assert "mypkg/job.py" in wheel.namelist()
            assert not [name for name in wheel.namelist() if ".hooke" in name]
        status = ["git", "status", "--porcelain", "--untracked-files=all"]
        seen = subprocess.run(status, cwd=root, capture_output=True, text=True, check=True).stdout
        assert "src/mypkg/job.py" in seen
        assert ".hooke" not in seen

    @pytest.mark.long
    def test_what_an_earlier_version_left_in_a_package_is_said_and_stays(self, tmp_path):
        root = tmp_path / "repo"
        package = script(root / "src" / "mypkg").parent
        mark(package, "hooke.toml")  # as earlier versions had it without one
        assert hooke(root, "run", "src/mypkg/job.py", "--on", "serial").returncode == 0
        (package / "hooke.toml").unlink()
        mark(root, "pyproject.toml")

        before = hooke(root, "runs")
        note = f"note: src/mypkg/.hooke is not used: the project is {root}, because it has pyproject.toml"
        assert note in before.stderr
        assert "hooke runs --project src/mypkg" in before.stderr
        assert f"no runs yet in {root}" in before.stderr
        assert runs_in(root, "--project", "src/mypkg") == runs_in(package, "--project", ".") == 1

        ran = hooke(root, "run", "src/mypkg/job.py", "--on", "serial")
        assert ran.stderr.count(note) == 1
        assert "1 done, 0 cached" in ran.stderr
        assert runs_in(root) == runs_in(root, "--project", "src/mypkg") == 1
        assert note in hooke(root, "doctor").stdout.replace("note     unused      ", "note: ")

        mark(package, "hooke.toml")  # what the note says
        again = hooke(root, "run", "src/mypkg/job.py", "--on", "serial")
        assert "0 done, 1 cached" in again.stderr
        assert "note:" not in again.stderr + hooke(root, "runs").stderr


class TestNotes:
    def test_a_hooke_toml_above_that_is_not_read(self, tmp_path, monkeypatch, caplog):
        top = mark(tmp_path / "mono", "hooke.toml")
        (top / "hooke.toml").write_text("[run]\nseed = 7\n", "utf-8")
        member = mark(top / "one", "pyproject.toml")
        monkeypatch.chdir(member)
        project = Project.find(script(member / "src"))
        assert project.seed == 0
        (note,) = project.notes(below=True)
        assert note.startswith(
            f"../hooke.toml is not read: the project is {member}, because it has pyproject.toml"
        )
        assert "ln -s ../hooke.toml hooke.toml" in note
        project.create()
        project.create()
        assert [each.getMessage() for each in caplog.records] == [f"note: {note}"]
        subprocess.run("ln -s ../hooke.toml hooke.toml", shell=True, check=True)
        linked = Project.find(member / "src")
        assert (linked.root, linked.seed, linked.notes()) == (member, 7, [])

    def test_all_below_the_project_but_not_other_projects_and_environments(self, tmp_path, monkeypatch):
        root = mark(tmp_path, "pyproject.toml")
        for folder in ("a/deep", "b", ".hidden/c", "node_modules/d", "env/e", "other/f"):
            (root / folder / ".hooke").mkdir(parents=True)
        (root / "env" / "pyvenv.cfg").write_text("", "utf-8")
        mark(root / "other", ".git/")
        monkeypatch.chdir(root)
        project = Project.find(root)
        assert [note.split(" is not used")[0] for note in project.notes(below=True)] == [
            "b/.hooke",
            "a/deep/.hooke",
        ]
        assert project.notes() == []
        assert [note.split(" is")[0] for note in Project.find(root / "b").notes()] == ["b/.hooke"]

    def test_runs_of_a_larger_project_are_said_before_the_first_one(self, tmp_path, monkeypatch):
        """As when a folder of a project becomes one of its own."""
        member = mark(tmp_path / "mono" / "one", "pyproject.toml")
        (mark(tmp_path / "mono", ".git/") / ".hooke").mkdir()
        monkeypatch.chdir(member)
        project = Project.find(member)
        (note,) = project.notes(below=True)
        assert note == (
            f"../.hooke belongs to another project: this one is {member}, because it has pyproject.toml. "
            "To see the runs there: hooke runs --project .."
        )
        project.create()
        assert project.notes(below=True) == []
        monkeypatch.setenv("HOME", str(tmp_path / "mono"))
        (member / ".hooke").rename(tmp_path / "away")
        assert project.notes(below=True) == []

    def test_a_large_project_is_not_searched_to_its_end(self, tmp_path, monkeypatch):
        monkeypatch.setattr(project_folder, "_MOST_FOLDERS", 3)
        root = mark(tmp_path, "pyproject.toml")
        for number in range(4):
            (root / f"{number}" / ".hooke").mkdir(parents=True)
        assert len(Project.find(root).notes(below=True)) == 2

    def test_a_root_that_cannot_be_written_says_why_it_is_the_root(self, small_disk):
        root = mark(small_disk / "repo", ".git/")
        file = script(root / "src")
        (root / "writable").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        with pytest.raises(HookeError) as caught:
            Project.find(file).create()
        assert caught.value.where == str(root / ".hooke")
        assert f"{root} is the project because it has .git" in caught.value.why
        assert "put an empty hooke.toml into a folder below it" in caught.value.fix


def test_the_folder_keeps_itself_out_of_git(tmp_path):
    made = Project.find(tmp_path).create()
    assert (made / ".gitignore").read_text("utf-8") == "*\n"
    assert made.stat().st_mode & 0o777 == 0o700
    made.chmod(0o750)  # somebody shares it
    (made / ".gitignore").unlink()
    assert Project.find(tmp_path).create().stat().st_mode & 0o777 == 0o750
