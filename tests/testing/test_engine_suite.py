"""The suite itself: engines that break one promise each are turned away."""

import msgspec
import pytest

from hooke.base.ref import Ref
from hooke.engines.serial import SerialEngine
from hooke.journal.events import AttemptFailed, AttemptFinished, AttemptStarted, CapacityChanged
from hooke.testing.engine_suite import check_engine


class Changed(SerialEngine):
    """The serial engine, with its events changed on their way out."""

    def wait(self, timeout_s):
        return [changed for event in super().wait(timeout_s) for changed in self.change(event)]

    def change(self, event):
        return [event]


class NoCapacity(Changed):
    def change(self, event):
        return [] if isinstance(event, CapacityChanged) else [event]


class AnswersTwice(Changed):
    def change(self, event):
        return [event, event] if isinstance(event, AttemptFinished) else [event]


class NeverSaysStarted(Changed):
    def change(self, event):
        return [] if isinstance(event, AttemptStarted) else [event]


class Backwards(Changed):
    def wait(self, timeout_s):
        return super().wait(timeout_s)[::-1]


class NotDurable(Changed):
    def change(self, event):
        if isinstance(event, AttemptFinished):
            event = msgspec.structs.replace(event, ref=Ref("f" * 64, 100))
        return [event]


class ForgetsWhatWasDone(Changed):
    def change(self, event):
        return [
            msgspec.structs.replace(event, done=0, ref=None) if isinstance(event, AttemptFailed) else event
        ]


class NamesTheWrongItems(Changed):
    def change(self, event):
        return [
            msgspec.structs.replace(event, lo=event.lo + 1) if isinstance(event, AttemptFinished) else event
        ]


class LosesOutput(Changed):
    def change(self, event):
        return [msgspec.structs.replace(event, log=None) if isinstance(event, AttemptFinished) else event]


class ClosesOnce(SerialEngine):
    closed = False

    def close(self):
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True
        super().close()


class CannotCancel(SerialEngine):
    def cancel(self, attempt):
        pass


DEFECTS = [
    NoCapacity,
    AnswersTwice,
    NeverSaysStarted,
    Backwards,
    NotDurable,
    ForgetsWhatWasDone,
    NamesTheWrongItems,
    LosesOutput,
    ClosesOnce,
    CannotCancel,
]


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.parametrize("engine", DEFECTS, ids=lambda engine: engine.__name__)
def test_an_engine_that_breaks_a_promise_is_turned_away(engine, tmp_path):
    with pytest.raises(Exception, match=r"\S"):
        check_engine(engine, tmp_path)


@pytest.mark.long
@pytest.mark.needs("processes")
def test_the_sound_one_passes_it_all(tmp_path):
    check_engine(SerialEngine, tmp_path)
