"""A manifest holds where all that was read has the content that it had, and its names mean the same elsewhere."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooke.base.files import content_digest
from hooke.base.observed import (
    InputsNow,
    absolute_path,
    as_unshared,
    describe,
    first_changed,
    is_left_out,
    is_secret,
    manifest_id,
    merged,
    name_of,
    observed_file,
    observed_listing,
    observed_tree,
    observed_variable,
)
from hooke.base.ref import ItemsObserved, Observed

LONG_AGO = time.time() - 3600


def settle(path: Path) -> None:
    """Give a file an age. Its change time stays, as with a restored backup."""
    os.utime(path, (LONG_AGO, LONG_AGO))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "d.csv"
    path.write_text("1,2\n")
    settle(path)
    return path


def changed(observed: Observed, root: Path, **environment: str) -> Observed | None:
    return first_changed([observed], root=root, environment=environment)


class TestFiles:
    def test_an_equal_file_holds_in_another_checkout(self, data: Path, tmp_path: Path) -> None:
        observed = observed_file("d.csv", str(data))
        assert changed(observed, tmp_path) is None
        other = tmp_path / "checkout"
        other.mkdir()
        (other / "d.csv").write_text("1,2\n")
        assert changed(observed, other) is None

    @pytest.mark.parametrize("text", ["1,3\n", "1,2,3\n", ""])
    def test_an_edited_file_does_not_hold_though_its_time_is_kept(self, data: Path, text: str) -> None:
        observed = observed_file("d.csv", str(data))
        data.write_text(text)
        settle(data)
        assert changed(observed, data.parent) is observed
        assert describe(observed, root=data.parent) == "d.csv changed (read, not declared)"

    def test_a_file_that_is_put_back_holds_again(self, data: Path) -> None:
        observed = observed_file("d.csv", str(data))
        data.write_text("another\n")
        assert changed(observed, data.parent) is observed
        data.write_text("1,2\n")
        assert changed(observed, data.parent) is None

    def test_a_missing_file_is_gone(self, data: Path) -> None:
        observed = observed_file("d.csv", str(data))
        data.unlink()
        assert changed(observed, data.parent) is observed
        assert describe(observed, root=data.parent) == "d.csv is gone (read, not declared)"

    @pytest.mark.needs("cpu")
    def test_a_file_is_not_read_where_size_and_times_are_the_same(self, data: Path) -> None:
        facts = data.stat()
        known = Observed(
            kind="file",
            name="d.csv",
            digest="of nothing",
            size=facts.st_size,
            mtime_ns=facts.st_mtime_ns,
            ctime_ns=facts.st_ctime_ns,
        )
        assert changed(known, data.parent) is known  # it is younger than 2 s, so it is read
        time.sleep(max(0.0, 2.05 - (time.time() - facts.st_ctime)))
        assert changed(known, data.parent) is None

    def test_the_times_of_a_young_file_are_not_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "new"
        path.write_text("x")
        observed = observed_file("new", str(path))
        assert (observed.size, observed.mtime_ns, observed.ctime_ns) == (1, 0, 0)

    def test_a_young_file_that_is_rewritten_at_once_has_another_digest(self, tmp_path: Path) -> None:
        path = tmp_path / "new"
        found = set()
        for number in range(50):
            path.write_text(f"{number:4}")
            found.add(content_digest(str(path)))
        assert len(found) == 50

    def test_absent(self, tmp_path: Path) -> None:
        absent = Observed(kind="absent", name="conf.yaml")
        assert changed(absent, tmp_path) is None
        (tmp_path / "conf.yaml").write_text("")
        assert changed(absent, tmp_path) is absent
        assert describe(absent).startswith("conf.yaml exists now")


class TestFolders:
    def test_a_listing_counts_names_without_hidden_ones_and_the_attempts_own(self, tmp_path: Path) -> None:
        folder = tmp_path / "data"
        folder.mkdir()
        (folder / "a").write_text("")
        observed = observed_listing("data", ["b.out", "a", "__pycache__", ".git"], ["b.out"])
        assert changed(observed, tmp_path) is None
        (folder / "b.out").write_text("")
        (folder / ".hidden").write_text("")
        (folder / "a").write_text("other content, same name")
        assert changed(observed, tmp_path) is None
        (folder / "c").write_text("")
        assert changed(observed, tmp_path) is observed
        assert describe(observed, root=tmp_path) == "the files in data/ are others (listed, not declared)"
        shutil.rmtree(folder)
        assert describe(observed, root=tmp_path) == "data/ is gone (read, not declared)"

    def test_a_tree_has_the_content_of_all_files(self, tmp_path: Path) -> None:
        folder = tmp_path / "data"
        folder.mkdir()
        for number in range(20):
            (folder / f"{number}.txt").write_text(str(number))
        observed = observed_tree("data", str(folder), ["own.txt"])
        assert changed(observed, tmp_path) is None
        (folder / "own.txt").write_text("")
        assert changed(observed, tmp_path) is None
        (folder / "7.txt").write_text("8")
        assert changed(observed, tmp_path) is observed
        assert describe(observed) == "files in data/ changed (read, not declared)"


class TestVariables:
    def test_a_value_is_known_by_a_digest_that_the_stores_secret_keys(self) -> None:
        one, other = observed_variable("X", "1", b"a" * 16), observed_variable("X", "1", b"b" * 16)
        assert one.digest != other.digest
        assert one.digest != observed_variable("Y", "1", b"a" * 16).digest
        assert first_changed([one], root="/", environment={"X": "1"}, secret=b"a" * 16) is None
        assert first_changed([one], root="/", environment={"X": "2"}, secret=b"a" * 16) is one
        assert describe(one) == "environment variable X changed"

    def test_set_and_not_set_differ(self, tmp_path: Path) -> None:
        unset, empty = observed_variable("X", None), observed_variable("X", "")
        assert changed(unset, tmp_path) is None
        assert changed(unset, tmp_path, X="") is unset
        assert changed(empty, tmp_path, X="") is None
        assert changed(empty, tmp_path) is empty

    @pytest.mark.parametrize(
        "name", ["HF_TOKEN", "MY_SECRET", "DB_PASSWORD", "API_KEY", "AWS_ACCESS_KEY_ID", "secret_x"]
    )
    def test_a_secret_has_no_digest_and_always_holds(self, name: str, tmp_path: Path) -> None:
        observed = observed_variable(name, "hunter2")
        assert is_secret(name)
        assert observed.digest == ""
        assert changed(observed, tmp_path, **{name: "rotated"}) is None
        assert changed(observed, tmp_path) is None

    @pytest.mark.parametrize("name", ["MAX_TOKENS", "TOKENIZER", "KEYS", "MODE", "LORA_RANK", "DB_HOST"])
    def test_other_names_count(self, name: str) -> None:
        assert not is_secret(name)
        assert not is_left_out(name)

    @pytest.mark.parametrize(
        "name",
        [
            "PATH",
            "HOME",
            "RANK",
            "LOCAL_RANK",
            "CUDA_VISIBLE_DEVICES",
            "OMP_NUM_THREADS",
            "HOOKE_SEED",
            "PWD",
        ],
    )
    def test_what_describes_the_process_does_not(self, name: str) -> None:
        assert is_left_out(name)


PARTS = st.lists(st.text("abc. é", min_size=1, max_size=4).filter(lambda t: t.strip(".")), max_size=4)


@pytest.mark.needs("cpu")
@given(PARTS, PARTS)
def test_names_of_paths_lead_back_to_them_below_the_project_and_elsewhere(
    top: list[str], below: list[str]
) -> None:
    root, other = "/" + "/".join(["p", *top]), "/" + "/".join(["q", *top])
    for path in ("/".join([root, *below]), "/".join([other, *below]), root + "x"):
        assert absolute_path(name_of(path, root), root) == path
    moved = absolute_path(name_of("/".join([root, *below]), root), other)
    assert moved == "/".join([other, *below])


class TestFilesOfOtherHosts:
    """A run whose tasks run on hosts that may not share the files of this machine."""

    def inputs(self, root: Path, *, unshared: bool = True) -> InputsNow:
        return InputsNow(root=root, environment={"X": "1"}, unshared=unshared)

    def elsewhere(self, observed: Observed) -> Observed:
        ((marked,),) = (each.inputs for each in as_unshared([ItemsObserved(lo=0, hi=1, inputs=(observed,))]))
        return marked

    def test_only_a_worker_can_tell_of_a_file_that_another_host_has_read(
        self, data: Path, tmp_path: Path
    ) -> None:
        theirs = self.elsewhere(observed_file("d.csv", str(data)))
        now = self.inputs(tmp_path)
        assert now.first_changed((theirs,)) == theirs, "in doubt it has changed"
        assert now.take_unknown() == (theirs,)
        assert now.take_unknown() == ()
        now.looked_at([theirs], [])
        assert now.first_changed((theirs,)) is None
        now.looked_at([theirs], [theirs])
        assert now.first_changed((theirs,)) == theirs
        assert now.take_unknown() == ()
        now.forget()
        assert now.first_changed((theirs,)) == theirs
        assert now.take_unknown() == (theirs,)

    def test_this_machine_tells_of_what_it_has_read_and_has(self, data: Path, tmp_path: Path) -> None:
        ours = observed_file("d.csv", str(data))
        absent = Observed(kind="absent", name="nothing.csv")
        now = self.inputs(tmp_path)
        assert now.first_changed((ours, absent)) is None
        data.write_text("3,4\n")
        now.forget()
        assert now.first_changed((ours, absent)) == ours
        data.unlink()
        now.forget()
        assert now.first_changed((ours, absent)) == ours
        assert now.take_unknown() == (ours,), "it is not here, and may be there"

    def test_nobody_is_asked_about_what_has_changed_anyway(self, data: Path, tmp_path: Path) -> None:
        theirs = self.elsewhere(observed_file("d.csv", str(data)))
        variable = observed_variable("X", "2")
        now = self.inputs(tmp_path)
        assert now.first_changed((theirs, variable)) == variable
        assert now.take_unknown() == ()

    def test_a_run_on_this_machine_asks_nobody(self, data: Path, tmp_path: Path) -> None:
        theirs = self.elsewhere(observed_file("d.csv", str(data)))
        now = self.inputs(tmp_path, unshared=False)
        assert now.first_changed((theirs,)) is None
        data.unlink()
        now.forget()
        changed_here = now.first_changed((theirs,))
        assert changed_here is not None
        assert describe(changed_here) == "d.csv changed (read, not declared)"
        assert describe(theirs) == "d.csv changed on the workers' hosts (read, not declared)"
        assert now.take_unknown() == ()

    def test_variables_are_the_drivers_on_every_host(self) -> None:
        variable = observed_variable("X", "1")
        assert self.elsewhere(variable) == variable

    def test_the_same_content_here_and_there_are_two_inputs(self, data: Path) -> None:
        ours = observed_file("d.csv", str(data))
        theirs = self.elsewhere(ours)
        assert merged([(ours,), (theirs,), (ours,)]) == (ours, theirs)
        assert manifest_id((ours,)) != manifest_id((theirs,))
