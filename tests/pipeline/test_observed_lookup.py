"""Which stored results count if tasks read files that no key names: chains, maps, lists, resumes; with a real store and journal."""

import random

import pytest
from tests.pipeline.observing_engine import (
    Place,
    after_a_writer,
    beside_a_writer,
    by_variable,
    by_way_of_a_file,
    by_way_of_a_folder,
    chain,
    cut_off,
    diamond,
    dynamic,
    each_its_own,
    joined,
    load,
    mapped,
    one_item,
    outside,
    over_constant,
    over_many,
    uncached,
    unread,
)
from tests.support.sizes import choose_size

from hooke.journal.events import InputsChanged
from hooke.pipeline.pipeline import pipeline
from hooke.pipeline.runner import MOST_LOOKED_AT
from hooke.pipeline.trace import trace
from hooke.running.why import roots
from hooke.store.entries import Entry
from hooke.store.store import Store

HISTORIES = choose_size(sample=5, full=10, soak=100)
PARTS = 5  # processes share them


@pytest.fixture(autouse=True)
def _nothing_moved():
    vars(outside()).update(folder=None, read=[], wrote=[], unsettled="", variables={})


@pytest.fixture(params=["here", "unshared"])
def place(request, tmp_path):
    return Place(tmp_path, unshared=request.param == "unshared")


EVERY = [
    (chain, "a", ["load", "shout", "shout"]),
    (diamond, "a", ["beside", "both", "load", "shout"]),
    (diamond, "b", ["beside", "both"]),
    (mapped, "b", ["joined", "load", "shout"]),
    (dynamic, "b", ["beside", "beside", "joined", "shout", "shout"]),
    (each_its_own, "b", ["joined", "load", "shout"]),
    (one_item, "b", ["load", "shout"]),
]


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(("wanted", "name", "again"), EVERY, ids=lambda each: getattr(each, "name", None))
def test_what_was_made_from_a_changed_file_runs_and_counts_again_when_the_file_is_put_back(
    place, wanted, name, again
):
    _, first = place.run(wanted)
    assert place.run(wanted) == ([], first), "nothing changed"
    before = (place.folder / name).read_text()
    place.put(**{name: "changed"})
    ran, second = place.run(wanted)
    assert sorted(ran) == again
    assert second != first
    assert place.run(wanted) == ([], second), "nothing changed since"
    place.put(**{name: before})
    assert place.run(wanted) == ([], first), "the old file's results are still there"


def test_equal_results_upstream_keep_what_was_made_from_them(place):
    place.run(cut_off)
    place.put(a="changed")
    assert place.run(cut_off) == (["constant"], "ALWAYS")
    assert place.run(cut_off) == ([], "ALWAYS"), (
        "the found result was committed with what its input was made from now"
    )
    place.put(a="one")
    assert place.run(cut_off) == ([], "ALWAYS")


def test_equal_results_keep_the_items_that_take_them_as_a_constant(place):
    _, first = place.run(over_constant)
    place.put(a="changed")
    assert place.run(over_constant) == (["constant"], first)
    assert place.run(over_constant) == ([], first)


def test_a_variable_is_an_input_too(place):
    _, first = place.run(by_variable)
    outside().variables["FLAVOUR"] = "sweet"
    assert place.run(by_variable) == (["flavour", "shout"], "SWEET")
    outside().variables.clear()
    assert place.run(by_variable) == ([], first)


def test_a_list_with_other_items_keeps_the_results_of_those_that_it_had(place):
    place.run(dynamic)
    place.put(list="x y z")
    ran, result = place.run(dynamic)
    assert sorted(ran) == ["beside", "joined", "lines", "shout"]
    assert result == "X+TWO|Y+TWO|Z+TWO"
    place.put(list="y")
    assert place.run(dynamic)[1] == "Y+TWO"
    place.put(list="x y")
    assert place.run(dynamic) == ([], "X+TWO|Y+TWO")


def test_manifests_outlive_the_results_that_they_are_of(place):
    _, first = place.run(chain)
    store, keys = place.stored(chain)
    assert store.remove(keys[0].key)
    assert store.remove(keys[1].key)
    assert place.run(chain) == ([], first)
    place.put(a="changed")
    assert place.run(chain) == (["load", "shout", "shout"], "CHANGED")


def test_what_depends_on_an_uncached_task_runs_as_ever(place):
    assert place.run(uncached) == (["load", "fresh", "shout"], "ONE")
    assert place.run(uncached) == (["fresh", "shout"], "ONE")
    place.put(a="changed")
    assert place.run(uncached) == (["load", "fresh", "shout"], "CHANGED")


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_sixteen_results_of_a_key_are_kept_and_the_oldest_goes(place):
    for wanted in (chain, mapped):
        texts = [f"text{number}" for number in range(17)]
        for text in texts:
            place.put(a=text)
            assert place.run(wanted)[0]
        for text in texts[1:]:
            place.put(a=text)
            assert place.run(wanted)[0] == [], text
        place.put(a=texts[0])
        assert place.run(wanted)[0]


def test_a_result_that_read_nothing_does_not_count_beside_a_later_one_that_did(place):
    store, keys = place.stored(chain)
    for node in range(3):
        entry = Entry(key=keys[node].key, ref=store.put("old"), task="", run="", seconds=1.0, at=0.0)
        store.commit(entry)
    assert place.run(chain) == ([], "old"), "as before inputs were observed"
    assert place.run(chain, forced=("load",)) == (["load", "shout", "shout"], "ONE")
    assert place.run(chain) == ([], "ONE")
    place.put(a="changed")
    assert place.run(chain) == (["load", "shout", "shout"], "CHANGED")


def test_items_that_read_nothing_do_not_count_beside_later_ones_that_did(place):
    store, keys = place.stored(mapped)
    old, names = store.put(["old", "old", "old"]), keys.indexed(0)
    store.commit_items(keys[0].recipe, names, old, task="load", run="", seconds=1.0)
    assert place.run(mapped)[1] == "OLD|OLD|OLD"
    place.run(mapped, forced=("load",))
    assert place.run(mapped) == ([], "ONE|TWO|THREE")
    place.put(b="changed")
    ran, result = place.run(mapped)
    assert (sorted(ran), result) == (["joined", "load", "shout"], "ONE|CHANGED|THREE")


def test_an_unsettled_result_is_used_in_its_run_and_by_no_other(place):
    outside().unsettled = "it read a, and changed it"
    for wanted in (chain, mapped, dynamic, cut_off):
        everything = place.run(wanted)
        assert place.run(wanted) == everything, wanted.name
    outside().unsettled = ""
    ran, result = place.run(chain)
    assert (ran, result) == (["load", "shout", "shout"], "ONE")
    assert place.run(chain) == ([], "ONE")


def test_a_resumed_run_runs_again_what_was_made_from_a_changed_file(place):
    ran, _ = place.run(chain, stop_after=2, status="stopped")
    assert ran == ["load", "shout"]
    assert place.run(chain, resumed=True, stop_after=2, status="finished") == (["shout"], "ONE")
    place.put(a="changed")
    assert place.run(chain, resumed=True) == (["load", "shout", "shout"], "CHANGED")
    place.put(a="third")
    assert place.run(chain, resumed=True) == (["load", "shout", "shout"], "THIRD")
    assert place.run(chain, resumed=True) == ([], "THIRD"), (
        "the last result of an item is the one that counts"
    )


def test_a_resumed_map_runs_the_items_again_whose_file_changed(place):
    place.run(mapped, stop_after=5, status="stopped")
    place.put(b="changed")
    ran, result = place.run(mapped, resumed=True)
    assert result == "ONE|CHANGED|THREE"
    assert "load" in ran
    assert len(ran) < 7
    assert place.run(mapped, resumed=True) == ([], result)


def test_a_resumed_run_reads_its_list_again_if_the_file_of_the_list_changed(place):
    place.run(dynamic, stop_after=3, status="stopped")
    place.put(list="y z")
    assert place.run(dynamic, resumed=True)[1] == "Y+TWO|Z+TWO"
    assert place.run(dynamic, resumed=True) == ([], "Y+TWO|Z+TWO")


def test_unsettled_results_are_not_recalled_by_a_resume(place):
    outside().unsettled = "it changed what it read"
    place.run(chain, stop_after=2, status="stopped")
    outside().unsettled = ""
    assert place.run(chain, resumed=True) == (["load", "shout", "shout"], "ONE")


def test_two_checkouts_share_a_store(tmp_path):
    (tmp_path / "left").mkdir()
    (tmp_path / "right").mkdir()
    left, right = Place(tmp_path / "left"), Place(tmp_path / "right", store=tmp_path / "left" / "store")
    first = left.run(mapped)[1]
    assert right.run(mapped) == ([], first), "files are named relative to the project"
    right.put(b="right")
    assert right.run(mapped)[1] == "ONE|RIGHT|THREE"
    assert left.run(mapped) == ([], first)
    assert right.run(mapped) == ([], "ONE|RIGHT|THREE")


def test_the_journal_says_which_input_changed(place):
    place.run(diamond)
    assert place.of(InputsChanged) == []
    place.put(b="changed")
    place.run(diamond)
    told = {
        (event.node, *(each.name for each in event.inputs), event.upstream)
        for event in place.of(InputsChanged)
    }
    assert told == {(2, "b", False), (3, True)}


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("seed", range(5))
def test_damaged_records_and_manifests_make_tasks_run_again(place, seed):
    chance = random.Random(seed)
    place.put(list=" ".join(f"{number}" for number in range(300)))  # so that manifests are in objects, too
    names = {f"many{number}": "same" for number in range(120)}
    place.put(**names)
    wanted = chance.choice([chain, mapped, dynamic, over_many])
    first = place.run(wanted)[1]
    place.put(a="changed")
    second = place.run(wanted)[1]
    files = [
        file
        for file in place.store.rglob("*")
        if file.is_file() and (file.suffix == ".pack" or file.parts[-3] == "objects")
    ]
    assert files
    for file in chance.sample(files, k=max(1, len(files) // 3)):
        data = bytearray(file.read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        file.write_bytes(data)
    assert place.run(wanted)[1] == second
    place.put(a="one")
    assert place.run(wanted)[1] == first


@pytest.mark.needs("cpu")
@pytest.mark.parametrize("part", range(PARTS))
def test_any_order_of_edits_kills_resumes_and_removals_gives_what_plain_python_gives(tmp_path, part):
    """Also: a run after a run runs nothing."""
    for seed in range(part, HISTORIES, PARTS):
        folder = tmp_path / str(seed)
        folder.mkdir()
        play(Place(folder, unshared=seed % 2 == 1), seed)


def play(place, seed):
    chance = random.Random(seed)
    wanted = chance.choice([chain, diamond, mapped, over_constant, dynamic, each_its_own, one_item, cut_off])
    for _ in range(12):
        name = chance.choice("abc")
        match chance.choice(["edit", "edit", "list", "remove", "evict", "run", "kill"]):
            case "edit":
                place.put(**{name: chance.choice(["one", "two", "three"])})
            case "list":
                place.put(list=chance.choice(["x", "x y", "y x z"]))
            case "remove":
                store, keys = place.stored(wanted)
                store.remove(chance.choice([node.recipe for node in keys.nodes]))
            case "evict":
                Store.open(place.store).gc(chance.choice([0, 2000, 100_000]))
            case "kill":
                place.run(wanted, stop_after=chance.randrange(3), status=None)
                if chance.random() < 0.5:
                    place.put(**{name: chance.choice(["one", "two", "three"])})
                if chance.random() < 0.8:
                    assert place.run(wanted, resumed=True)[1] == place.plain(wanted)
                continue
            case _:
                pass
        assert place.run(wanted)[1] == place.plain(wanted), seed
        if chance.random() < 0.5:
            assert place.run(wanted) == ([], place.plain(wanted)), seed


def test_why_names_the_input_that_changed_and_what_was_made_from_it(place):
    place.run(diamond)
    place.put(a="changed")
    place.run(diamond)
    causes = {each.task: [cause.text for cause in each.causes] for each in place.why()}
    where = " on the workers' hosts" if place.unshared else ""
    assert causes == {
        "load": [f"ran again: a changed{where} (read, not declared)"],
        "shout": ["it reads the result of load, which was made again"],
        "beside": ["it reads the result of load, which was made again"],
        "both": [
            "it reads the result of shout, which was made again",
            "it reads the result of beside, which was made again",
        ],
    }
    roots_of_both = roots(place.why(), 3)
    assert [cause.text for _, cause in roots_of_both] == [f"ran again: a changed{where} (read, not declared)"]


def test_why_says_that_a_result_is_not_kept(place, caplog):
    outside().unsettled = "it read a, and changed it"
    place.run(chain)
    assert {each.task: each.unsettled for each in place.why()} == {
        "load": "load: it read a, and changed it",
        "shout": "shout: it read a, and changed it",
    }
    said = [record.message for record in caplog.records if "in this run only" in record.message]
    assert said == [
        "load: it read a, and changed it; its result is used in this run only",
        "shout: it read a, and changed it; its result is used in this run only",
    ]


def test_a_plan_counts_stored_results_only_if_their_inputs_are_the_same(place):
    place.run(dynamic)
    assert place.left(dynamic) == {}
    place.put(b="changed")
    assert place.left(dynamic) == {"beside": 2, "shout": 2, "joined": 1}
    place.put(b="two", list="x")
    assert place.left(dynamic)["lines"] == 1


def test_a_task_writes_again_what_another_reads_and_is_gone(place):
    for wanted in (by_way_of_a_file, by_way_of_a_folder):
        assert place.run(wanted)[1] == "one read"
        assert place.run(wanted) == ([], "one read")
        (place.folder / "out" / "made").unlink()
        ran, result = place.run(wanted)
        assert (ran, result) == (["write"], "one read"), (
            "its readers count again, because the file is as it was"
        )
        assert place.run(wanted) == ([], "one read")
        place.put(**{"out/made": "edited"})
        ran, result = place.run(wanted)
        assert result == "one read"
        assert place.run(wanted) == ([], "one read")
        (place.folder / "out" / "other").write_text("")


def test_a_file_that_nobody_reads_is_not_written_again(place):
    assert place.run(unread)[1] == "ONE"
    (place.folder / "out" / "made").unlink()
    assert place.run(unread) == ([], "ONE")


@pytest.fixture
def apart(tmp_path):
    return Place(tmp_path, unshared=True)


@pytest.mark.parametrize("wanted", [chain, diamond, mapped, dynamic, each_its_own, over_constant])
def test_a_cached_run_asks_a_worker_once_about_files_that_the_driver_does_not_see(apart, wanted):
    _, first = apart.run(wanted)
    assert apart.looks == 0, "there were no results"
    assert apart.run(wanted) == ([], first)
    assert apart.looks == 1
    outside().variables["FLAVOUR"] = "sweet"
    apart.run(by_variable)
    apart.run(by_variable)
    assert apart.looks == 0, "the driver knows the variables"


@pytest.mark.needs("cpu")
def test_many_files_are_looked_at_in_parts(apart):
    names = {f"many{number}": "same" for number in range(MOST_LOOKED_AT + 1)}
    apart.put(**names)

    @pipeline
    def each_of_many():
        return joined(load.map(sorted(names)))

    _, first = apart.run(each_of_many)
    assert apart.run(each_of_many) == ([], first)
    assert apart.looks == 2
    apart.put(many7="changed")
    assert sorted(apart.run(each_of_many)[0]) == ["joined", "load"]


def test_what_no_worker_can_look_at_runs_again(apart, caplog):
    _, first = apart.run(chain)
    apart.blind = True
    ran, again = apart.run(chain)
    assert ("load" in ran, again) == (True, first)
    assert (
        "no worker could look at a (WorkerDied: was killed): what was made from it runs again" in caplog.text
    )
    apart.blind = False
    assert apart.run(chain) == ([], first)


@pytest.mark.parametrize("wanted", [beside_a_writer, after_a_writer], ids=lambda each: each.name)
def test_an_answer_from_before_a_task_wrote_says_nothing_of_what_follows_that_task(apart, wanted):
    apart.put(**{"out/made": "one"})
    assert "one read" in apart.run(wanted)[1].lower()
    store, keys = apart.stored(wanted)
    for node in trace(wanted, ()).nodes:
        if node.task.name in ("shout", "both"):
            assert store.remove(keys[node.id].key)
    apart.put(a="two")
    apart.slow_until = "copied"
    ran, result = apart.run(wanted)
    assert "two read" in result.lower()
    assert "read_after" in ran
    apart.slow_until = ""
    assert "two read" in apart.run(wanted)[1].lower()


def test_a_file_that_is_gone_here_is_looked_for_where_tasks_run(tmp_path):
    """Whoever has read it: results of versions that did not note that, and of this machine."""
    here = Place(tmp_path)
    _, first = here.run(chain)
    (tmp_path / "again").mkdir()
    apart = Place(tmp_path / "again", store=here.store, unshared=True)
    (apart.seen / "a").unlink()
    assert apart.run(chain) == ([], first)
    assert apart.looks == 1
    (apart.seen / "a").write_text("of the driver")
    assert apart.run(chain) == (["load"], first), "what this machine has read, and has now, is compared here"
    assert apart.run(chain) == ([], first), "that was made on the other host"


def test_a_run_on_this_machine_compares_its_own_files(tmp_path):
    apart = Place(tmp_path, unshared=True)
    _, first = apart.run(chain)
    apart.folder, apart.unshared = apart.seen, False
    assert apart.run(chain)[1] == "OF THE DRIVER"
    apart.put(a="one")
    assert apart.run(chain) == ([], first), "equal files give equal results on any host"
