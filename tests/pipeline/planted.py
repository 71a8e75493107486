"""Bugs to be found: small changes of the production classes, each of a kind that schedulers have had."""

import msgspec
from msgspec.structs import replace

from hooke.journal.events import AttemptFinished
from hooke.pipeline.run_state import RunState
from hooke.pipeline.runner import Runner


class BelievesWithoutSaying(Runner):
    """Lost acknowledgement: some results are believed but not journalled, so a resumed run does not know them."""

    def _record(self, event):
        if isinstance(event, AttemptFinished) and event.attempt % 7 == 0:
            self._state.apply(event)
        else:
            super()._record(event)


class ActsBeforeItIsWritten(Runner):
    """Lost acknowledgement: events are written when the driver waits, after it has acted on them."""

    def _turn(self):
        journal, flush = self._parts.journal, self._parts.journal.flush
        journal.flush = lambda: None
        try:
            super()._turn()
        finally:
            journal.flush = flush
        if len(journal._held) > 20 or self._state.status is not None:
            flush()


class LosesAnswers(Runner):
    """Lost acknowledgement: some answers are dropped, and the run waits for them for ever."""

    def _handle(self, event):
        if not (isinstance(event, AttemptFinished) and event.attempt % 7 == 0):
            super()._handle(event)


class CommitsTwice(Runner):
    """Double commit: an answer that comes twice is journalled twice."""

    def _handle(self, event):
        if isinstance(event, AttemptFinished) and event.attempt not in self._state.running:
            self._parts.journal.append(event)
        super()._handle(event)


class BelievesTheDead(RunState):
    """Stale attempt: an answer of an attempt that was given up is taken for one that is under way."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._gone = {}

    def _pop_running(self, attempt):
        running = self.running.get(attempt)
        if running is not None:
            self._gone[attempt] = running
        return super()._pop_running(attempt) or self._gone.pop(attempt, None)


class LeavesAttemptsRunning(RunState):
    """Leak: a run that is over leaves its attempts to themselves."""

    def _abandon_all(self):
        return []


class KeepsClaims(Runner):
    """Leak: claims of finished nodes are kept, and those of a run that is over too."""

    def run(self):
        while self._state.status is None:
            self._turn()
        return self._state.status


class LetsTheWideWait(RunState):
    """Starvation: room is never kept for an attempt that needs much."""

    skips_before_reserving = 10**9


class CountsAGangAsOne(RunState):
    """Partial start: a gang is given one slot, and its other ranks are left to find room for themselves."""

    def _request(self, state, lo):
        return msgspec.structs.replace(super()._request(state, lo), slots=1)


class LetsGangsWait(RunState):
    """Starvation: room is never kept for a gang, so that it waits until nothing smaller is left."""

    def _is_reserved_for(self, state, request):
        return request.slots == 1 and super()._is_reserved_for(state, request)


class BeginsNarrow(RunState):
    """Idle slots: an elastic gang begins with the fewest ranks, whatever room there is."""

    def _widened(self, state, lo, request):
        return None


class CountsChangesOfSize(RunState):
    """A gang that ends at a checkpoint to go on with another number of ranks has used up one of its tries."""

    def _failed(self, event):
        failure = msgspec.structs.replace(event.failure, kind="TaskError") if event.resized else event.failure
        super()._failed(msgspec.structs.replace(event, failure=failure))


class TakesItAllBack(RunState):
    """Starvation: a gang that makes way for others begins again with all that it had."""

    def _failed(self, event):
        super()._failed(event)
        if event.resized:
            for state in self.nodes:
                for item in state.elastic.values():
                    item.most = None


class WaitsForLostRoom(RunState):
    """A gang waits for ever for ranks that it was to have when there were more workers."""

    def _withdraw_gangs(self):
        return []


class AsksTheDead(RunState):
    """A gang that has not begun is asked to change its number of ranks."""

    def _start(self, *args, **kwargs):
        submit = super()._start(*args, **kwargs)
        running = self.running[submit.attempt]
        if self.nodes[running.node].plan.least_ranks and not running.expand:
            running.started = running.wished = self._now
            running.wish = running.request.slots
        return submit


class LastComesFirst(RunState):
    """Starvation: the node that became ready last goes first, so that early ones wait for ever."""

    def _push(self, state):
        node = state.node.id
        if not self._queued[node]:
            self._queued[node] = 1
            self._ready.append((self._depth[node], node))
            self._ready.sort()


class RunsAgain(RunState):
    """Lost results: what the journal knew of a resumed run is not believed."""

    def _found(self, event):
        if event.source != "journal":
            super()._found(event)


class TriesForEver(RunState):
    """Retries without end: failures of an item are not counted."""

    def _retry_or_fail(self, state, event, *, item):
        state.failures = None
        super()._retry_or_fail(state, event, item=item)


class ForgetsTime(RunState):
    """Timeouts that never come."""

    def _expire(self, now):
        return []


class StartsEarly(RunState):
    """A node that needs two others starts when one of them is done."""

    def _input_met(self, child):
        state = self.nodes[child]
        if state.looked_up and state.missing:
            state.missing = 0
            self._reopen(state)


class RecordsBothTwins(RunState):
    """Double record: the first result of two attempts does not end the other one, whose result is recorded too."""

    def _finished(self, event):
        attempt = self.running.get(event.attempt)
        if attempt is not None:
            self._twin_goes_on(attempt)
            attempt.twin = None
        super()._finished(event)

    def _record(self, state, lo, hi, ref):
        state.done.replace(lo, hi, ref)
        self._announce_done(state, lo, hi)


class LeavesTheBeatenRunning(RunState):
    """Leak: the attempt whose twin was first is forgotten, and not cancelled."""

    def _finished(self, event):
        super()._finished(event)
        self._unneeded.clear()


class FailsWithItsTwin(RunState):
    """Lost work: the failure of one of two attempts is taken for that of their items, while the other one runs."""

    def _twin_goes_on(self, attempt):
        super()._twin_goes_on(attempt)
        return False


class RepeatsTheImpure(RunState):
    """A task that is declared impure gets second attempts."""

    def __init__(self, graph, plans, **kwargs):
        super().__init__(graph, [replace(plan, repeatable=True) for plan in plans], **kwargs)


class TwinsComeFirst(RunState):
    """Idle slots that are not idle: second attempts take the place of work that is ready."""

    def _submit_ready(self):
        ready, self._ready = self._ready, []
        twins = self._submit_twins()
        self._ready = ready
        return twins + super()._submit_ready()


class ForgetsStragglers(RunState):
    """A stuck attempt is waited for, however long."""

    def _submit_twins(self):
        return []


class ForgetsWhatIsTainted(RunState):
    """Stale result: what was made of a list that lacks failed items is stored as if the list were whole."""

    def is_tainted(self, node):
        return False


class SkipsNothing(RunState):
    """Lost: items after a failed one wait for its result for ever."""

    def _skip(self, state, lo, hi):
        pass


class LeavesOutTooEarly(RunState):
    """Lost: an item that may be retried is left out at its first failure."""

    def _retry_or_fail(self, state, event, *, item):
        if state.node.on_error == "continue" and item >= 0:
            state.failed += 1
            self._leave_out(state, item, item + 1)
        else:
            super()._retry_or_fail(state, event, item=item)


class CallsItWhole(RunState):
    """A run that left items out says that it finished without failures."""

    @property
    def failures(self):
        return 0


class RunsTheRefused(Runner):
    """Double work: an attempt starts at a node that another process has claimed."""

    def _claim_all(self, submits):
        claimed = super()._claim_all(submits)
        self._refused.clear()
        return claimed


class LooksOnceOnly(Runner):
    """Double work: a node that another process finished before this one's claim is not looked up again."""

    def _claim_all(self, submits):
        claimed = super()._claim_all(submits)
        self._unlooked.clear()
        return claimed


class FollowsTooMuch(RunState):
    """Early start: an attempt follows one of several that it needs, and the others have not ended."""

    def _follower(self, running):
        children = [self.nodes[child] for child in self._waiters.of_whole(running.node)]
        missing = [child.missing for child in children]
        for child in children:
            child.missing = min(child.missing, 1)
        found = super()._follower(running)
        for child, before in zip(children, missing, strict=True):
            child.missing = before
        return found


class ForgetsWhatFollows(RunState):
    """Lost work: what follows an attempt that fails is waited for, and never begins."""

    def _drop_followers(self, attempt):
        if not (attempt in self.running and self.running[attempt].started is not None):
            super()._drop_followers(attempt)


class FreesTheSlotOfALine(RunState):
    """Overload: the slot of an attempt is free when it ends, though the one that follows it has begun there."""

    def _remove(self, attempt):
        running = self.running.pop(attempt)
        self._lines.end(attempt)
        self._room.free(running.request)
        return running
