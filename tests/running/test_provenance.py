"""What a run is made of: real repositories, and a record that never costs a run its end."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hooke import ConfigError, File, Run
from hooke.journal.events import MadeOf, RunFinished, RunMadeOf
from hooke.journal.reader import read
from hooke.running import git as adapter
from hooke.running import provenance as environment
from hooke.running import provenance as machine
from hooke.running.git import GitTrouble, Repository
from hooke.running.provenance import provenance_of, sentence
from hooke.running.reproduce.conditions import libraries


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    folder = tmp_path / "work"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "trunk")
    (folder / "job.py").write_text("A = 1\n")
    (folder / ".gitignore").write_text("secret\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "one")
    return Repository(folder)


def names(repository: Repository, tree: str) -> list[str]:
    return git(repository.root, "ls-tree", "-r", "--name-only", tree).splitlines()


def test_a_clean_tree_is_its_commits(repository):
    taken = repository.snapshot()
    assert taken.tree == git(repository.root, "rev-parse", "HEAD^{tree}")
    assert (taken.commit, taken.branch) == (git(repository.root, "rev-parse", "HEAD"), "trunk")
    assert (taken.dirty, taken.diff) == (False, b"")


@pytest.mark.needs("cpu")
def test_changed_new_staged_and_deleted_files_are_in_the_tree_and_ignored_ones_are_not(repository):
    root = repository.root
    (root / "gone.py").write_text("")
    git(root, "add", "gone.py")
    git(root, "commit", "-qm", "two")
    (root / "gone.py").unlink()
    (root / "job.py").write_text("A = 2\n")
    (root / "new file.py").write_text("B = 1\n")
    (root / "staged.py").write_text("C = 1\n")
    git(root, "add", "staged.py")
    (root / "secret").write_text("s")
    (root / "__pycache__").mkdir()
    (root / "__pycache__/job.pyc").write_bytes(b"x")
    before = git(root, "status", "--porcelain")
    taken = repository.snapshot()
    assert names(repository, taken.tree) == [".gitignore", "job.py", "new file.py", "staged.py"]
    assert taken.dirty
    assert b"-A = 1\n+A = 2\n" in taken.diff
    assert git(root, "status", "--porcelain") == before, "the user's own index is as it was"


@pytest.mark.needs("cpu")
def test_an_edit_of_equal_length_right_after_a_commit_is_seen(repository):
    for letter in "BCDEFG":
        git(repository.root, "add", "-A")
        (repository.root / "job.py").write_text(f"{letter} = 1\n")
        tree = repository.snapshot().tree
        assert git(repository.root, "show", f"{tree}:job.py") == f"{letter} = 1"


@pytest.mark.needs("cpu")
def test_what_is_kept_outlives_a_garbage_collection_and_comes_back(repository, tmp_path):
    root = repository.root
    (root / "job.py").write_text("A = 3\n")
    tree = repository.snapshot().tree
    (root / "job.py").write_text("A = 4\n")
    git(root, "gc", "-q", "--prune=now")
    assert repository.has(tree)
    assert not repository.has("0" * 40)
    restored = tmp_path / "restored"
    repository.restore(tree, restored)
    assert (restored / "job.py").read_text() == "A = 3\n"
    (restored / "rubbish").write_text("")
    repository.forget(restored)
    assert not restored.exists()
    assert git(root, "worktree", "list").count("\n") == 0


def test_a_large_file_that_git_does_not_know_is_named_and_not_copied(repository):
    with (repository.root / "table.bin").open("wb") as stream:
        stream.truncate(adapter.MOST_FILE_BYTES + 1)
    taken = repository.snapshot()
    assert taken.left_out == ("table.bin",)
    assert "table.bin" not in names(repository, taken.tree)


def test_of_a_forgotten_gitignore_no_more_than_so_much_is_copied(repository):
    for at in range(adapter.MOST_NAMED + 5):
        (repository.root / f"new{at:03}.txt").write_text(f"{at}")
    taken = Repository(repository.root, most_new_files=3).snapshot()
    assert names(repository, taken.tree) == [".gitignore", "job.py", "new000.txt", "new001.txt", "new002.txt"]
    assert taken.left_out[0] == "new003.txt"
    assert len(taken.left_out) == adapter.MOST_NAMED + 1
    assert taken.left_out[-1] == "and 2 more"


@pytest.mark.needs("cpu")
def test_a_merge_that_is_not_done_is_kept_as_the_files_are(repository):
    root = repository.root
    git(root, "checkout", "-qb", "other")
    (root / "job.py").write_text("A = 5\n")
    git(root, "commit", "-qam", "five")
    git(root, "checkout", "-q", "trunk")
    (root / "job.py").write_text("A = 6\n")
    git(root, "commit", "-qam", "six")
    with pytest.raises(subprocess.CalledProcessError):
        git(root, "merge", "other")
    taken = repository.snapshot()
    assert b"<<<<<<<" in git(root, "show", f"{taken.tree}:job.py").encode()


def test_a_repository_without_a_commit(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "job.py").write_text("A = 1\n")
    taken = Repository(tmp_path).snapshot()
    assert names(Repository(tmp_path), taken.tree) == ["job.py"]
    assert (taken.commit, taken.dirty) == ("", True)


def test_a_token_in_the_address_of_the_remote_is_not_recorded(repository):
    git(repository.root, "remote", "add", "origin", "https://user:token@example.org/job.git")
    assert repository.snapshot().remote == "https://example.org/job.git"


def test_a_damaged_repository_is_said_and_nothing_raised(repository):
    (repository.root / ".git" / "HEAD").write_text("rubbish")
    assert "git" in provenance_of(repository.root, None).trouble
    with pytest.raises(GitTrouble, match="failed"):
        repository.snapshot()


def test_git_that_is_not_there_or_slow_is_said(repository, tmp_path, monkeypatch):
    slow = tmp_path / "bin"
    slow.mkdir()
    (slow / "git").write_text("#!/bin/sh\nexec sleep 60\n")
    (slow / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(GitTrouble, match=r"took more than 0\.2 s"):
        Repository(repository.root, patience_s=0.2).snapshot()
    with pytest.raises(GitTrouble, match="an earlier snapshot in this process"):
        repository.snapshot()
    (slow / "git").unlink()
    monkeypatch.setenv("PATH", str(slow))
    with pytest.raises(GitTrouble, match="not installed"):
        Repository(tmp_path).snapshot()


def distribution(folder: Path, name: str, version: str) -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_installed_distributions_are_those_that_an_import_would_find(tmp_path):
    distribution(tmp_path / "first", "Tiny_Lib", "1.0")
    distribution(tmp_path / "second", "tiny_lib", "2.0")
    distribution(tmp_path / "second", "other.lib", "3.0+local")
    (tmp_path / "second" / "other.lib-3.0+local.dist-info" / "direct_url.json").write_text(
        '{"url": "file:///x", "dir_info": {"editable": true}}'
    )
    (tmp_path / "second" / "old.egg-info").mkdir()
    (tmp_path / "second" / "old.egg-info" / "PKG-INFO").write_text("Name: Old\nVersion: 4\n")
    found = environment.installed([str(tmp_path / each) for each in ("first", "none", "second")])
    assert found == {"old": "4", "other-lib": "3.0+local (editable)", "tiny-lib": "1.0"}
    environment.keep(tmp_path, found)
    assert environment.read_kept(tmp_path, environment.digest_of(found)) == found
    assert environment.read_kept(tmp_path, "0" * 32) is None


def test_an_environment_from_before_hooke_was_in_an_index_names_what_is_installed_now(tmp_path):
    was = {"hooke": "0.1.0", "tiny-lib": "1.0"}
    environment.keep(tmp_path, was)
    kept = environment.read_kept(tmp_path, environment.digest_of(was))
    assert kept == {"hooke-ml": "0.1.0", "tiny-lib": "1.0"}
    (newer,) = [each for each in libraries(kept, {"hooke-ml": "0.2.0", "tiny-lib": "1.0"}) if not each.met]
    assert newer.fix == "pip install hooke-ml==0.1.0"


def test_gpus_are_read_from_the_drivers_own_files(tmp_path):
    assert machine.gpus(tmp_path) == ""
    card = tmp_path / "gpus" / "0000:01:00.0"
    card.mkdir(parents=True)
    (card / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 100\n")
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5\n"
    )
    assert machine.gpus(tmp_path) == "NVIDIA H100 80GB HBM3; driver 550.54.15"


JOB = """
    import random
    from pathlib import Path
    from hooke import File, pipeline, task

    @task
    def draw(n: int) -> float:
        import numpy as np
        return n + random.random() + np.random.rand()

    @task
    def total(values: list, table: File) -> float:
        return sum(values) + random.random() + len(Path(table).read_text())

    @pipeline
    def draws(table: File, n: int = 4) -> float:
        return total(draw.map(range(n)), table)
"""


def record(run: Run) -> MadeOf:
    (segment,) = read(run.folder, "driver")
    events = [event for event in segment.events if isinstance(event, RunMadeOf | RunFinished)]
    assert [type(event) for event in events] == [RunMadeOf, RunFinished]
    assert isinstance(events[0], RunMadeOf)
    return events[0].record


@pytest.mark.needs("cpu")
def test_a_run_records_it(workshop, monkeypatch):
    table = workshop.folder / "table.txt"
    table.write_text("abc")
    workshop.write(JOB)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("HOOKE_SEED", "9")
    first = workshop.run(File(table))
    made = record(first)
    assert made.trouble == f"{first.project.root} is not in a git repository"
    assert (made.seed, made.threads["OMP_NUM_THREADS"]) == (9, "3")
    assert list(made.files) == [str(table)]
    kept = environment.read_kept(first.project.data, made.environment)
    assert kept is not None
    assert "numpy" in kept
    table.write_text("abd")
    assert record(workshop.run(File(table))).files != made.files


@pytest.mark.needs("cpu")
def test_equal_seeds_draw_equal_numbers_and_another_draws_all_anew(workshop, monkeypatch):
    (workshop.folder / "table.txt").write_text("abc")
    workshop.write(JOB)
    results, ran = [], []
    for seed in ("0", "7", "0"):
        monkeypatch.setenv("HOOKE_SEED", seed)
        made = workshop.run(File(workshop.folder / "table.txt"))
        results.append(made.result())
        ran.append(workshop.ran(made))
    assert results[0] == results[2] != results[1]
    assert ran == [{"draw": 4, "total": 1}, {"draw": 4, "total": 1}, {}]
    monkeypatch.setenv("HOOKE_SEED", "many")
    with pytest.raises(ConfigError, match="not a whole number"):
        workshop.run(File(workshop.folder / "table.txt"))


@pytest.mark.needs("processes")
def test_what_is_drawn_is_the_same_in_this_process_and_in_any_worker(workshop):
    (workshop.folder / "table.txt").write_text("abc")
    workshop.write(JOB)
    results = set()
    for place, workers in (("serial", None), ("local", 1), ("local", 2)):
        results.add(workshop.run(File("table.txt"), on=place, workers=workers).result())
        shutil.rmtree(workshop.folder / ".hooke")
    assert len(results) == 1


SCRIPT = """
import hooke
with hooke.start_run() as r:
    hooke.log_metric("loss", 1.0)
(made,) = [event.record for event in r.journal if type(event).__name__ == "RunMadeOf"]
print(made.argv, made.branch, made.dirty)
"""


@pytest.mark.needs("processes")
def test_a_script_records_it_with_its_words(repository):
    (repository.root / "train.py").write_text(SCRIPT)
    words = [sys.executable, "train.py", "--rate", "0.1"]
    done = subprocess.run(words, cwd=repository.root, capture_output=True, text=True, check=True)
    assert done.stdout == "('--rate', '0.1') trunk True\n"
    assert "train.py" in names(repository, repository.snapshot().tree)


def test_it_is_said_in_a_sentence():
    whole = MadeOf(
        tree="a" * 40,
        commit="b" * 40,
        branch="trunk",
        dirty=True,
        environment="c" * 32,
        interpreter={"python": "3.11.7"},
        hardware={"cpu": "AMD EPYC", "cores": "2"},
        files={"/table.csv": "d"},
        seed=7,
        left_out=("big.bin",),
    )
    assert sentence(whole) == (
        "tree aaaaaaaa (commit bbbbbbbb on trunk, with changes); environment cccccccc, Python 3.11.7; "
        "AMD EPYC, 2 cores; 1 data file; seed 7; too large for the tree: big.bin"
    )
    assert sentence(MadeOf(trouble="git is not installed")).startswith("code not kept: git is not installed")
