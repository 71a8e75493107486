"""A run made again for real: equal as it is, and each changed condition is named."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.cli.conftest import Desk

pytestmark = pytest.mark.needs("processes")

JOB = """
    import random
    from pathlib import Path

    import tinylib
    from hooke import File, pipeline, task

    HERE = Path(__file__).parent

    @task
    def draw(n: int) -> float:
        return n + random.random()

    @task
    def scale(value: float) -> float:
        return value * tinylib.FACTOR

    @task
    def total(values: list, table: File) -> dict:
        return {"total": sum(values), "rows": len(Path(table).read_text())}

    @pipeline
    def draws(n: int = 4) -> dict:
        values = scale.map(draw.map(range(n)))
        return {"summary": total(values, File(HERE / "table.txt")), "values": values}
"""

FILES = """
    import os
    from pathlib import Path
    from hooke import File, pipeline, task

    HERE = Path(__file__).parent

    def put(name: str, text: str) -> Path:
        (HERE / name).write_text(text)
        return HERE / name

    @task
    def written() -> File:
        return File(put("written.txt", "one"))

    @task
    def placed() -> Path:
        return put("placed.txt", "one")

    @task
    def each(name: str) -> File:
        return File(put(f"{name}.txt", name))

    @task
    def noise() -> dict[str, Path]:
        return {"path": put("noise.txt", os.urandom(20).hex())}

    @task
    def size(noise: dict[str, Path]) -> int:
        return len(noise["path"].read_text())

    @pipeline
    def files() -> dict:
        chance = noise()
        each_of = each.map(["a", "b"])
        return {"written": written(), "placed": placed(), "each": each_of, "noise": chance, "size": size(chance)}
"""


UNDECLARED = """
    import os
    from pathlib import Path
    from hooke import pipeline, task

    HERE = Path(__file__).parent

    @task
    def read(name: str) -> str:
        return (HERE / name).read_text() * int(os.environ.get("TIMES", "1"))

    @task
    def listed() -> list[str]:
        return sorted(each.read_text() for each in (HERE / "parts").iterdir())

    @task
    def first() -> str:
        return "one" if not (HERE / "more.txt").exists() else (HERE / "more.txt").read_text()

    @task
    def signed(text: str) -> int:
        return len(text + os.environ["SIGNING_SECRET"]) and len(text)

    @pipeline
    def undeclared() -> dict:
        text = read("text.txt")
        return {"text": text, "parts": listed(), "first": first(), "signed": signed(text)}
"""


WRITES = """
    import os
    from pathlib import Path
    from hooke import pipeline, task

    HERE = Path(__file__).parent

    @task
    def write(n: int) -> int:
        (HERE / "made").mkdir(exist_ok=True)
        (HERE / "made" / f"{n}.bin").write_bytes(os.urandom(8))
        (HERE / "last.bin").write_bytes(os.urandom(8))
        return n

    @task
    def size(n: int) -> int:
        return len((HERE / "made" / f"{n}.bin").read_bytes() + (HERE / "last.bin").read_bytes())

    @task
    def names(size: int) -> list[str]:
        return sorted(each.name for folder in (HERE, HERE / "given") for each in folder.iterdir() if each.name[0] not in "._")

    @pipeline
    def writes() -> list[str]:
        return names(size(write(1)))
"""


class Lab(Desk):
    """A project in a repository, with a library installed beside it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "project")
        self.site = folder / "site"
        self.folder.mkdir()
        self.write("draws.py", JOB)
        self.write(".gitignore", "table.txt\n__pycache__\n")
        self.write("table.txt", "abc")
        self.install("1.0")
        self.git("init", "-q", "-b", "trunk")
        self.git("add", "-A")
        self.git("commit", "-qm", "one")

    def git(self, *words: str) -> str:
        who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        return subprocess.run(
            ["git", "-C", str(self.folder), *who, *words], capture_output=True, text=True, check=True
        ).stdout

    def install(self, version: str) -> None:
        for old in self.site.glob("*.dist-info"):
            shutil.rmtree(old)
        info = self.site / f"tinylib-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tinylib\nVersion: {version}\n")
        (info / "RECORD").write_text("tinylib.py,,\n")
        (self.site / "tinylib.py").write_text("FACTOR = 2\n")

    def environment(self, **more: str) -> dict[str, str]:
        path = os.pathsep.join(filter(None, [str(self.site), os.environ.get("PYTHONPATH", "")]))
        return super().environment(PYTHONPATH=path, HOOKE_PROGRESS="none", **more)

    def reproduce(self, *words: str, **more: str) -> tuple[int, dict]:
        done = self.hooke("reproduce", "--json", *words, **more)
        assert done.out, done.err
        return done.code, json.loads(done.out)


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    # What was never committed is in the tree, too.
    lab.edit("draws.py", "return n + random.random()", "return n * random.random()")
    done = lab.hooke("run", "draws.py")
    assert done.code == 0, done.err
    return lab


def unmet(facts: dict) -> list[tuple[str, str, str, str]]:
    return [
        (each["kind"], each["name"], each["was"], each["now"]) for each in facts["anchors"] if not each["met"]
    ]


def kinds(verdicts: list[dict]) -> dict[str, str]:
    return {each["name"]: each["kind"] for each in verdicts}


@pytest.mark.long
def test_a_run_is_reproduced_whatever_became_of_the_code_since(lab):
    code, facts = lab.reproduce()
    assert (code, facts["status"], unmet(facts)) == (0, "checked", [])
    lab.edit("draws.py", "value * tinylib.FACTOR", "value * tinylib.FACTOR + 1")
    code, facts = lab.reproduce("--verify")
    assert (code, facts["status"], unmet(facts)) == (0, "reproduced", [])
    assert kinds(facts["tasks"]) == dict.fromkeys(("draw", "scale", "total"), "equal")
    assert kinds(facts["outputs"]) == dict.fromkeys(("summary", "values"), "equal")
    assert [each["equal"] for each in facts["tasks"]] == [4, 4, 1]
    assert "draws.py:16" in facts["notes"][0]
    assert lab.git("worktree", "list").count("\n") == 1, "the restored tree is gone"
    assert len(lab.project.runs.names()) == 1, "the project has no new run"
    plain = lab.hooke("reproduce", "--verify")
    assert plain.out.endswith("reproduced: all results are bitwise equal\n")


def test_another_version_of_a_library_is_named(lab):
    lab.install("1.1")
    code, facts = lab.reproduce("--verify")
    assert (code, facts["status"], facts["tasks"]) == (4, "unmet", [])
    assert unmet(facts) == [("library", "tinylib", "1.0", "1.1")]
    code, facts = lab.reproduce("--verify", "--best-effort")
    assert (code, facts["status"]) == (0, "reproduced"), "its FACTOR is the same"
    assert unmet(facts) == [("library", "tinylib", "1.0", "1.1")]


def test_another_byte_of_data_is_named_and_where_results_differ_from(lab):
    lab.write("table.txt", "abd")
    code, facts = lab.reproduce("--verify")
    assert code == 4
    ((kind, name, was, now),) = unmet(facts)
    assert (kind, name) == ("data", str(lab.folder / "table.txt"))
    assert was != now
    lab.write("table.txt", "abcd")
    code, facts = lab.reproduce("--verify", "--best-effort")
    assert code == 3
    assert kinds(facts["tasks"]) == {"draw": "equal", "scale": "equal", "total": "different"}
    assert kinds(facts["outputs"]) == {"summary": "different", "values": "equal"}
    (total,) = [each for each in facts["tasks"] if each["name"] == "total"]
    assert total["begins"]
    assert total["first"] == "total: ['rows'] was 3, is 4 (1 apart)"


@pytest.mark.long
def test_files_are_compared_by_the_content_that_they_had(lab):
    lab.write("files.py", FILES)
    lab.write(".gitignore", "*.txt\n__pycache__\n")
    done = lab.hooke("run", "files.py")
    assert done.code == 0, done.err
    for name in ("written.txt", "placed.txt"):
        (lab.folder / name).unlink()
    code, facts = lab.reproduce("--verify")
    expected = {"written": "equal", "placed": "equal", "noise": "different", "each": "equal", "size": "equal"}
    assert (code, facts["status"]) == (3, "different")
    assert kinds(facts["tasks"]) == expected
    assert kinds(facts["outputs"]) == expected
    (noise,) = [each for each in facts["tasks"] if each["name"] == "noise"]
    assert noise["begins"] and noise["first"].startswith("noise: ['path'] was ")
    assert len(re.findall(r"content [0-9a-f]{12}", noise["first"])) == 2
    assert not (lab.folder / "written.txt").exists()


@pytest.mark.long
def test_what_tasks_read_without_declaring_it_is_a_condition(lab):
    lab.write("undeclared.py", UNDECLARED)
    lab.write(".gitignore", "*.txt\nparts\n__pycache__\n")
    lab.write("text.txt", "ab")
    (lab.folder / "parts").mkdir()
    lab.write("parts/a.txt", "a")
    lab.write("parts/b.txt", "b")
    for _ in range(2):  # the second run has all results from the cache
        done = lab.hooke("run", "undeclared.py", TIMES="2", SIGNING_SECRET="x")
        assert done.code == 0, done.err
    code, facts = lab.reproduce("--verify", TIMES="2", SIGNING_SECRET="rotated")
    assert (code, unmet(facts)) == (0, [])
    read = {(each["kind"], Path(each["name"]).name) for each in facts["anchors"]}
    assert {("variable", "TIMES"), ("data", "text.txt"), ("data", "parts"), ("data", "more.txt")} <= read
    assert not any("SECRET" in name for _, name in read)
    (lab.folder / "text.txt").unlink()
    lab.write("parts/b.txt", "c")
    lab.write("parts/c.txt", "")
    lab.write("more.txt", "two")
    code, facts = lab.reproduce("--verify", SIGNING_SECRET="x")
    assert code == 4
    found = {(kind, Path(name).name): (was, now) for kind, name, was, now in unmet(facts)}
    assert set(found) == {
        ("variable", "TIMES"),
        ("data", "text.txt"),
        ("data", "parts"),
        ("data", "b.txt"),
    }
    assert found["variable", "TIMES"][1] == found["data", "text.txt"][1] == ""
    assert all(was != now for was, now in found.values())
    # In the restored tree, more.txt is as absent as it was.
    said = lab.hooke("reproduce", "--here", SIGNING_SECRET="x").out
    assert re.search(
        r"variable +DIFFERS  TIMES: a value with digest \w{8} -> missing  \(set TIMES as it was\)", said
    )
    assert re.search(r"more.txt: missing -> there  \(move it away\)", said)


@pytest.mark.long
@pytest.mark.parametrize("runs", [1, 2], ids=["computed", "cached"])
def test_a_rerun_writes_over_none_of_the_projects_files(lab, runs):
    lab.write("writes.py", WRITES)
    lab.write(".gitignore", "*.bin\nmade\ngiven\n*.txt\n__pycache__\n")
    (lab.folder / "given").mkdir()
    lab.write("given/a.txt", "a")
    for _ in range(runs):
        done = lab.hooke("run", "writes.py")
        assert done.code == 0, done.err
    written = [lab.folder / "made" / "1.bin", lab.folder / "last.bin"]
    before = [file.read_bytes() for file in written]
    code, facts = lab.reproduce("--verify")
    assert [file.read_bytes() for file in written] == before
    assert not any(file.is_symlink() for file in written)
    assert not unmet(facts)
    # Of a run that found its answer in the cache, the tasks before it have no result to compare.
    assert (code, kinds(facts["tasks"])["names"]) == (0 if runs == 1 else 3, "equal"), facts["tasks"]
    assert not any(name.endswith(".bin") for _, name, _, _ in unmet(facts))


@pytest.mark.long
def test_another_line_of_code_is_named_with_here(lab):
    lab.edit("draws.py", "value * tinylib.FACTOR", "value * tinylib.FACTOR + 1e-09")
    code, facts = lab.reproduce("--verify", "--here")
    assert code == 4
    old, new = "return value * tinylib.FACTOR", "return value * tinylib.FACTOR + 1e-09"
    assert unmet(facts) == [("code", "draws.py:16", old, new)]
    code, facts = lab.reproduce("--verify", "--here", "--best-effort")
    assert (code, facts["status"]) == (3, "different")
    assert ("code", "function draws.scale (draws.py:14)", old, new) in unmet(facts)
    assert {each["name"]: each["begins"] for each in facts["tasks"]} == {
        "draw": False,
        "scale": True,
        "total": False,
    }
    code, facts = lab.reproduce("--verify", "--here", "--best-effort", "--atol", "1e-6")
    assert (code, facts["status"]) == (0, "reproduced")
    assert kinds(facts["tasks"]) == {"draw": "equal", "scale": "close", "total": "close"}


def test_another_seed_is_named(lab):
    code, facts = lab.reproduce("--verify", HOOKE_SEED="7")
    assert (code, unmet(facts)) == (4, [("seed", "", "0", "7")])
    code, facts = lab.reproduce("--verify", "--best-effort", HOOKE_SEED="7")
    assert (code, unmet(facts)) == (3, [("seed", "", "0", "7")])
    assert [each["name"] for each in facts["tasks"] if each["begins"]] == ["draw"]


def test_without_a_repository_it_says_so_and_the_code_of_now_is_a_best_effort(lab):
    (lab.folder / ".git").rename(lab.folder.parent / "git")
    code, facts = lab.reproduce("--verify")
    assert code == 4
    assert unmet(facts)[0][:2] == ("code", "tree")
    assert "no longer in a git repository" in unmet(facts)[0][3]
    code, facts = lab.reproduce("--verify", "--best-effort")
    assert (code, kinds(facts["tasks"])) == (0, dict.fromkeys(("draw", "scale", "total"), "equal"))


@pytest.mark.long
def test_wrong_things_are_refused_with_the_mend(lab):
    lab.edit("draws.py", "tinylib.FACTOR", "(1 / 0)")
    assert lab.hooke("run", "draws.py").code == 1
    failed = lab.hooke("reproduce", "--verify")
    assert failed.code == 2
    assert "is failed, so it has no results to compare" in failed.err
    assert lab.hooke("reproduce", "nothing-like-it").code == 2
    first = lab.project.runs.names()[-1]
    lab.hooke("cache", "gc", "--max", "0")
    code, facts = lab.reproduce("--verify", first)
    assert (code, facts["status"]) == (0, "reproduced"), "small results lie in the journal itself"


SCRIPT = """
    import random, sys
    import hooke

    random.seed(int(sys.argv[1]))
    with hooke.start_run("digits", params={"seed": sys.argv[1]}):
        for _ in range(3):
            hooke.log_metric("loss", random.random())
"""


@pytest.mark.long
def test_a_script_runs_again_with_its_words_and_what_it_logged_is_compared(lab):
    lab.write("train.py", SCRIPT)
    words = [sys.executable, "train.py", "4"]
    subprocess.run(words, cwd=lab.folder, env=lab.environment(), check=True)
    lab.write("train.py", "raise SystemExit(3)")
    code, facts = lab.reproduce("--verify")
    assert (code, kinds(facts["outputs"])) == (0, {"metric loss": "equal", "parameter seed": "equal"})
    code, facts = lab.reproduce("--verify", "--here", "--best-effort")
    assert (code, facts["message"]) == (1, "the script ended with exit code 3 and logged no run")
    subprocess.run(
        [sys.executable, "-c", "import hooke; hooke.start_run()"],
        cwd=lab.folder,
        env=lab.environment(),
        check=True,
    )
    refused = lab.hooke("reproduce", "--verify")
    assert refused.code == 2
    assert "so there is no file to run again" in refused.err


SLOW = """
    import random, time
    from hooke import pipeline, task

    @task(cache=False)
    def luck(n: int) -> float:
        time.sleep(1.5)
        return n * random.random()

    @pipeline
    def slow() -> list:
        return luck.map([1, 2])
"""


@pytest.mark.long
def test_one_that_is_killed_or_stopped_leaves_nothing_for_long(lab, tmp_path):
    lab.write("slow.py", SLOW)
    assert lab.hooke("run", "slow.py").code == 0
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for how in (signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen(
            [sys.executable, "-m", "hooke", "reproduce", "--verify"],
            cwd=lab.folder,
            env=lab.environment(TMPDIR=str(scratch)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        deadline = time.monotonic() + 30
        while not list(scratch.glob("hooke-reproduce-*/hooke/runs/*/driver.journal")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(how)
        _, said = process.communicate(timeout=120)
        if how == signal.SIGINT:
            assert (process.returncode, said) == (130, "\nstopped\n")
            assert not list(scratch.glob("hooke-reproduce-*"))
    assert len(list(scratch.glob("hooke-reproduce-*"))) == 1, "nobody was left to remove it"
    code, facts = lab.reproduce("--verify", TMPDIR=str(scratch))
    assert (code, kinds(facts["tasks"])) == (0, {"luck": "equal"}), (
        "not cached, and the same numbers all the same"
    )
    assert not list(scratch.glob("hooke-reproduce-*"))
    assert lab.git("worktree", "list").count("\n") == 1
