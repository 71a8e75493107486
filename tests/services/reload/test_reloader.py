"""What counts as a change of what a service is made of, and which version answers when."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooke.cli.entry import run_command
from hooke.services.reload.handover import (
    CutProcess,
    DrainedReply,
    DrainProcess,
    Failed,
    FilesChanged,
    Gone,
    Handover,
    HandoverDone,
    Interrupted,
    KillProcess,
    Ready,
    Say,
    ServeRefused,
    StartProcess,
    step,
)
from hooke.services.reload.reloader import Sources, changed_files, snapshot

ROOT = Path("/home/me/delays")
SOURCES = Sources(root=ROOT, file=ROOT / "serve" / "delays.py")


@pytest.mark.parametrize(
    ("name", "imported", "counts"),
    [
        ("serve/delays.py", set(), True),
        ("hooke.toml", set(), True),
        ("serve/hooke.toml", set(), False),
        ("features.py", {"features.py"}, True),
        ("features.py", set(), False),
        ("features.py", None, True),
        ("tests/test_features.py", None, True),
        ("rows.csv", None, False),
        (".venv/lib/features.py", None, False),
        ("env/lib/site-packages/features.py", None, False),
        (".hooke/runs/features.py", None, False),
        ("mlruns/1/code/features.py", None, False),
        ("pkg/__pycache__/features.py", None, False),
        ("../elsewhere/features.py", None, False),
    ],
)
def test_what_counts(name, imported, counts):
    known = None if imported is None else {ROOT / each for each in imported}
    assert SOURCES.counts(Path(os.path.normpath(ROOT / name)), known) is counts


def test_own_modules_are_those_below_the_root(tmp_path):
    own = Sources(root=tmp_path, file=tmp_path / "a.py").own(
        [str(tmp_path / "a.py"), str(tmp_path / "b.so"), str(tmp_path / ".venv" / "c.py"), os.__file__]
    )
    assert own == {tmp_path / "a.py"}


def test_a_look_sees_what_is_new_other_or_gone(tmp_path):
    for name in (
        "a.py",
        "pkg/b.py",
        "hooke.toml",
        "rows.csv",
        ".hooke/c.py",
        "mine/pyvenv.cfg",
        "mine/lib/d.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    first = snapshot(tmp_path)
    assert first.stamps.keys() == {tmp_path / "a.py", tmp_path / "pkg/b.py", tmp_path / "hooke.toml"}
    assert first.folders == {tmp_path, tmp_path / "pkg"}
    assert changed_files(first, snapshot(tmp_path)) == set()
    (tmp_path / "pkg/b.py").unlink()
    (tmp_path / "new.py").write_text("1")
    (tmp_path / "a.py.swp").write_text("1")
    os.replace(tmp_path / "a.py.swp", tmp_path / "a.py")  # as editors save
    assert changed_files(first, snapshot(tmp_path)) == {
        tmp_path / "a.py",
        tmp_path / "pkg/b.py",
        tmp_path / "new.py",
    }


def said(actions):
    return "\n".join(action.text for action in actions if isinstance(action, Say))


def played(*events):
    state, actions = Handover(), ()
    for event in events:
        state, actions = step(state, event)
    return state, actions


FIRST = FilesChanged((), "10:00:00"), Ready(1, ("answers",))
BROKEN = ServeRefused(what="delays.py cannot be imported", where="delays.py:7", why=("SyntaxError: invalid",))


def test_the_old_version_drains_when_the_new_one_answers_and_not_before():
    _, actions = played(*FIRST, FilesChanged(("delays.py",), "10:01:00"))
    assert [type(action) for action in actions] == [Say, StartProcess]
    state, actions = played(*FIRST, FilesChanged(("delays.py",), "10:01:00"), Ready(2, ("answers",)))
    assert DrainProcess(1) in actions
    assert (
        said(actions)
        == "the version of 10:01:00 answers; the version of 10:00:00 answers its open requests and ends"
    )
    _, actions = step(state, Gone(1, "ended", DrainedReply(run="r", answered=3, cut=0)))
    assert said(actions) == "the version of 10:00:00 has ended: 3 requests answered"


def test_a_version_that_fails_is_told_once_and_the_old_one_stays():
    changes = *FIRST, FilesChanged(("delays.py",), "10:01:00")
    state, actions = played(*changes, Failed(2, BROKEN))
    assert not any(isinstance(action, DrainProcess | KillProcess) for action in actions)
    assert said(actions).splitlines() == [
        "the version of 10:01:00 cannot serve: delays.py:7",
        "  delays.py cannot be imported",
        "  | SyntaxError: invalid",
        "  the version of 10:00:00 keeps serving; the next change starts another try",
    ]
    assert step(state, Gone(2, "ended with exit code 1"))[1] == ()
    _, actions = played(*changes, Gone(2, "ended by SIGSEGV"))
    assert "its process ended by SIGSEGV before it was ready" in said(actions)


def test_the_first_start_that_fails_waits_for_a_change():
    state, actions = played(FIRST[0], Failed(1, BROKEN), Gone(1, "ended with exit code 1"))
    assert not state.living
    assert actions == ()
    assert StartProcess(state.coming) not in actions
    _, actions = step(state, FilesChanged(("delays.py",), "10:01:00"))
    assert any(isinstance(action, StartProcess) for action in actions)
    assert HandoverDone() in step(state, Interrupted())[1]


def test_a_change_ends_a_setup_that_hangs():
    _, actions = played(*FIRST, FilesChanged(("a.py",), "10:01:00"), FilesChanged(("b.py",), "10:02:00"))
    assert KillProcess(2) in actions
    assert not any(isinstance(action, DrainProcess) for action in actions)


def test_a_second_ctrl_c_cuts_and_a_third_kills():
    state, actions = played(*FIRST, Interrupted())
    assert DrainProcess(1) in actions
    state, actions = step(state, Interrupted())
    assert CutProcess(1) in actions
    state, actions = step(state, Interrupted())
    assert KillProcess(1) in actions
    assert step(state, Gone(1, "ended", DrainedReply(run="r", answered=3, cut=2)))[0].failed


@pytest.mark.needs("cpu")
@given(
    st.lists(st.tuples(st.sampled_from(["change", "ready", "fail", "gone"]), st.integers(0, 9)), max_size=40)
)
def test_whatever_happens_one_answers_until_another_does_and_all_end(history):
    state, _ = step(Handover(), FilesChanged((), "0"))
    alive = {1}
    for kind, pick in history:
        number = sorted(alive)[pick % len(alive)] if alive else 0
        event = {
            "change": FilesChanged(("a.py",), str(state.started)),
            "ready": Ready(number),
            "fail": Failed(number, BROKEN),
            "gone": Gone(number, "ended"),
        }[kind]
        before = state.serving
        state, actions = step(state, event)
        alive |= {action.version.number for action in actions if isinstance(action, StartProcess)}
        alive -= {number} if kind == "gone" else set()
        assert {one.number for one in state.living} == alive
        if before is not None and state.serving != before:
            assert kind == "ready" or (kind == "gone" and number == before.number)
        for action in actions:
            if isinstance(action, DrainProcess):
                assert state.serving is not None
                assert state.serving.number != action.number
    state, actions = step(state, Interrupted())
    for number in sorted(alive):
        assert HandoverDone() not in actions
        state, actions = step(state, Gone(number, "ended"))
    assert HandoverDone() in actions


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["--replicas", "2"], "leave out --replicas, or --dev"),
        (["--memory", "1GiB"], "leave out --memory, or --dev"),
        (["--host", "0.0.0.0"], "--tls-cert"),
        (["--host", "127.0.0.1.5"], "give one of this machine's addresses"),
    ],
)
def test_what_is_not_for_development_is_refused(tmp_path, capsys, words, fix):
    (tmp_path / "delays.py").write_text("")
    assert run_command(["serve", str(tmp_path / "delays.py"), "--dev", *words]) == 2
    assert fix in capsys.readouterr().err


def test_a_file_that_is_not_there_is_refused_at_once(tmp_path, capsys):
    (tmp_path / "delays.py").write_text("")
    assert run_command(["serve", str(tmp_path / "delay.py"), "--dev"]) == 2
    assert "did you mean" in capsys.readouterr().err
