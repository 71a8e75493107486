"""Load tests of language models: a real service answers streams; what was asked, what was seen, and what failed is told as it was."""

import json
import math
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from tests.serving.openai.conftest import TOKEN, served

from hooke import UsageError
from hooke.loadtest import rate_search
from hooke.loadtest.generator_process import TokenStream
from hooke.loadtest.target import constant, parse_target
from hooke.loadtest.token_bench import (
    CHAT,
    COMPLETIONS,
    TOKEN_EVENTS,
    TokenOrder,
    run_token_test,
    token_facts,
    token_text,
)
from hooke.project.token_lengths import TokenLengths
from hooke.serving.slo import Slo

pytestmark = pytest.mark.needs("processes")


NEVER = b"\0" * 9
"""Prompts are of random bytes."""


@pytest.fixture(scope="module")
def address():
    with served(slots=8) as made:
        made.model.undecodable = NEVER
        yield made


@pytest.fixture(autouse=True)
def any_machine(monkeypatch):
    """One that is busy sends late, and would have no results."""
    monkeypatch.setattr(rate_search, "LEAST_LAG_S", 60.0)
    monkeypatch.setattr(rate_search, "BUSIEST", 2.0)


def lengths(prompts, outputs):
    return TokenLengths(name="mine", prompts=np.array(prompts), outputs=np.array(outputs))


def order(address, **more):
    asked = {
        "lengths": lengths([20, 40], [5, 10]),
        "rates": (20.0,),
        "seconds": 1.5,
        "arrivals": constant,
        "arrivals_name": "constant",
    }
    return TokenOrder(target=parse_target(address), token=TOKEN, timeout_s=20.0, **{**asked, **more})


def test_answers_have_the_lengths_that_were_asked_for_and_times_in_order(address):
    told = []
    test = run_token_test(
        order(address.address, slo=Slo(95, 10.0, of_tokens=True, each_s=5.0)), tell=told.append
    )
    (level,) = test.levels
    assert told == [level]
    assert level.answered == level.count in (29, 30, 31)
    assert (level.prompt, level.output) == (level.asked_prompt, level.asked_output)
    assert 29 < level.prompt < 31
    assert test.prompts == "random token ids below 256"
    assert test.kept
    assert level.cached == 0
    p50 = {name: getattr(level, name)[0] for name in ("first_s", "each_s", "whole_s")}
    assert 0 < p50["first_s"].value < p50["whole_s"].value
    assert 0 <= p50["each_s"].value < p50["whole_s"].value  # 0: on a busy machine tokens come together
    assert level.good.value == pytest.approx(level.answered / level.seconds)
    assert level.output_rate.value > 0
    facts = json.loads(json.dumps(token_facts(test), allow_nan=False))
    assert facts["levels"][0]["first_s"]["p95"]["interval"][0] > 0
    assert "first token p50" in token_text(test)


def test_the_service_keeps_sums_of_its_steps_that_fit_their_law(address):
    windows = address.replica.dispatch.windows
    windows.take(0.0)
    run_token_test(order(address.address, rates=(20.0,), seconds=1.0), tell=lambda _: None)
    kept = windows.take(1.0)
    assert kept.token_limits == (8, 64, 400, 200, 8)
    steps, prompts, pieces = (sum(each.products[at] for each in kept.steps) for at in (0, 1, 2))
    assert 8 <= len(kept.step_pairs) <= 16
    assert prompts >= 20 * 20  # of at least as many requests
    assert pieces >= steps > 20
    assert kept.answers >= 20
    assert 5 < kept.answer_tokens / kept.answers < 8  # five and ten were asked for


def test_words_are_as_long_as_asked_where_the_service_takes_no_ids(address):
    test = run_token_test(
        order(address.address, path=CHAT, lengths=lengths([150, 200], [4, 6]), rates=(10.0,), seconds=1.0),
        tell=lambda _: None,
    )
    (level,) = test.levels
    assert level.answered == level.count
    assert level.prompt == pytest.approx(level.asked_prompt, rel=0.05)
    assert level.output == level.asked_output
    assert test.prompts.startswith("random words")


def test_what_fails_within_a_stream_is_counted_and_no_percentile_hides_it(address):
    address.model.undecodable = b"e"  # fails the answers that come to this letter, after they began
    try:
        test = run_token_test(
            order(
                address.address,
                lengths=lengths([20], [40]),
                slo=Slo(95, 1e6, of_tokens=True, each_s=5.0),
            ),
            tell=lambda _: None,
        )
    finally:
        address.model.undecodable = NEVER
    (level,) = test.levels
    failed = level.count - level.answered
    assert failed > 0
    assert sum(level.failed.values()) == failed
    assert level.good.value == pytest.approx(level.answered / level.seconds)  # though each_s alone is kept
    assert not test.kept
    share = level.answered / level.count
    for estimate in (*level.first_s, *level.whole_s):
        percent = float(estimate.name[1:])
        assert math.isfinite(estimate.value) == (percent / 100 <= share), (estimate, share)
    assert "without a whole answer" in token_text(test)


def test_the_slo_decides_what_is_good(address):
    test = run_token_test(
        order(address.address, slo=Slo(95, 1e-9, of_tokens=True), rates=(10.0,), seconds=1.0),
        tell=lambda _: None,
    )
    assert (test.levels[0].good.value, test.levels[0].good_share) == (0, 0)
    assert "0.0% of the requests were good" in token_text(test)
    assert test.levels[0].answered == test.levels[0].count


@pytest.mark.long
def test_times_count_from_when_a_request_was_due_also_if_no_connection_was_free(address):
    few = order(address.address, connections=1, lengths=lengths([20], [30]), rates=(40.0,), seconds=0.6)
    many = replace(few, connections=64)
    crowded = run_token_test(few, tell=lambda _: None)
    assert "waited for a connection" in token_text(crowded)
    alone, free = (test.levels[0] for test in (crowded, run_token_test(many, tell=lambda _: None)))
    assert alone.waited > 0
    assert alone.first_s[0].value > free.first_s[0].value


def test_what_does_not_fit_into_the_context_is_left_out(address):
    test = run_token_test(
        order(address.address, lengths=lengths([20, 5000], [5, 5]), rates=(10.0,), seconds=0.5),
        tell=lambda _: None,
    )
    assert test.order.lengths.left_out == 1
    assert "left out, as too long: 1" in token_text(test)
    with pytest.raises(UsageError, match="fits into a context of 400"):
        run_token_test(order(address.address, lengths=lengths([5000], [5])), tell=lambda _: None)


def test_a_traces_arrivals_and_lengths_go_together(address):
    trace = TokenLengths(
        name="mine",
        prompts=np.array([10, 5000, 90]),
        outputs=np.array([2, 2, 2]),
        due=np.array([0.0, 0.1, 0.3]),
    )
    asked = order(address.address, lengths=trace, arrivals_name="trace", rates=(10.0,), seconds=1.0)
    (level,) = run_token_test(asked, tell=lambda _: None).levels
    assert level.answered == level.count
    assert level.prompt == level.asked_prompt
    assert 40 < level.prompt < 60


def test_without_the_token_the_error_says_so(address):
    with pytest.raises(UsageError, match="answers 401") as refused:
        run_token_test(replace(order(address.address), token=""), tell=lambda _: None)
    assert "--token-file" in (refused.value.fix or "")


@contextmanager
def redirecting(to=None):
    """A server whose answer to GET is a redirect to this address, else a model; its address, and the tokens that it got."""
    got = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            got.append(self.headers["authorization"])
            self.send_response(302 if to else 200)
            if to:
                self.send_header("location", f"http://{to}{self.path}")
            self.end_headers()
            self.wfile.write(b'{"data": [{"id": "m"}]}')

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", got
        finally:
            server.shutdown()
            thread.join()


def test_the_token_does_not_follow_a_redirect():
    with (
        redirecting() as (other, stolen),
        redirecting(other) as (address, got),
        pytest.raises(UsageError, match="answers 302"),
    ):
        run_token_test(order(address), tell=lambda _: None)
    assert got == [f"Bearer {TOKEN}"]
    assert stolen == []


def stream(path, *parts):
    made = TokenStream(TOKEN_EVENTS[path])
    for part in parts:
        made.read(part)
    return made


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}\n\n'
DONE = b"data: [DONE]\n\n"


class TestStreams:
    def test_the_first_event_of_a_chat_is_no_token(self):
        role = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
        assert math.isnan(stream(CHAT, role).first)
        said = stream(CHAT, role, b'data: {"choices":[{"delta":{"conte', b'nt":"a"}}]}\n\n', USAGE + DONE)
        assert not math.isnan(said.first)
        used, _ = said.ended()
        assert used is not None
        assert (used.prompt_tokens, used.completion_tokens, used.cached) == (7, 2, 4)

    @pytest.mark.parametrize(
        ("end", "said"),
        [
            (USAGE, b"usage"),  # cut before the end
            (b'data: {"error":{"message":"broke"}}\n\n', b"broke"),
            (b'data: {"error":{"message":"broke"}}\n\n' + DONE, b"broke"),
            (DONE, b"no usage"),
        ],
    )
    def test_one_that_did_not_end_as_it_should_has_no_counts(self, end, said):
        used, why = stream(COMPLETIONS, b'data: {"choices":[{"text":"a"}]}\n\n', end).ended()
        assert used is None
        assert said in why
