"""What clients ask and replicas report decides which replica is asked; whatever comes, the account stays right and bounded."""

import json
import random
import tracemalloc
from operator import add

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.generation.simulated_fleet import TokenFleet

from hooke.generation import prompt_balancer
from hooke.generation.prompt_balancer import BLOCK, MOST_TOKENS, AskedPrompt, PromptBalancer, read_prompt
from hooke.generation.step_speeds import StepSpeeds, non_negative
from hooke.generation.token_scheduler import StepWork, TokenLoad
from hooke.serving.openai import messages


def body(text: str, **more) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], **more}).encode()


def balanced(*names: str) -> PromptBalancer:
    made = PromptBalancer()
    made.publish(names)
    return made


def held(tokens: int, **more) -> TokenLoad:
    return TokenLoad(running=1, held_tokens=tokens, memory_tokens=1 << 20, **more)


# --- What is read of a request.


def test_conversations_that_begin_alike_share_blocks_whatever_else_they_ask():
    long = "x" * (3 * BLOCK)
    first = read_prompt(body(long, max_tokens=7))
    later = json.dumps(
        {
            "temperature": 0,
            "n": 3,
            "messages": [
                {"role": "user", "content": long},
                {"role": "assistant", "content": "yes"},
                {"role": "user", "content": "z" * BLOCK},
            ],
            "model": "m",
        }
    )
    then = read_prompt(later.encode())
    assert then.blocks[: len(first.blocks)] == first.blocks
    assert len(then.blocks) == len(first.blocks) + 1
    assert (first.most, first.answers, then.answers) == (7, 1, 3)
    other = read_prompt(body(long).replace(b'"m"', b'"adapter"'))
    assert not set(first.blocks) & set(other.blocks), "another model's memory is another one"


def test_the_first_part_of_a_long_body_has_the_blocks_that_the_whole_one_has():
    text = "".join(random.Random(1).choices("abc ", k=200 * BLOCK))
    whole = body(text)
    part = read_prompt(whole[: 100 * BLOCK], whole=len(whole))
    seen = read_prompt(whole)
    assert part.blocks[:90] == seen.blocks[:90]
    assert len(part.blocks) == pytest.approx(len(seen.blocks), abs=3), "what is not seen takes memory, too"
    assert part.size == pytest.approx(seen.size, abs=2)


@pytest.mark.parametrize(
    ("sent", "tokens", "answers"),
    [
        ({"prompt": "a text"}, None, 1),
        ({"prompt": ["a", "b"]}, None, 2),
        ({"prompt": [1, 2, 3]}, 3, 1),
        ({"input": "for /v1/responses", "max_output_tokens": 4}, None, 1),
        ({"prompt": None}, None, 1),
        ({"messages": 5, "n": -4}, None, 1),
        ({"n": "many"}, None, 1),
    ],
)
def test_other_kinds_of_prompts(sent, tokens, answers):
    found = read_prompt(json.dumps(sent).encode())
    assert (found.tokens, found.answers) == (tokens, answers)


@given(st.binary(max_size=2000))
def test_a_body_may_be_anything(data):
    assert read_prompt(data, whole=len(data)).size <= len(data)
    assert read_prompt(b'{"messages":' + data).answers >= 1


NUMBERS = st.one_of(
    st.none(), st.integers(), st.sampled_from([10**12, 10**400, -(10**400), 2**63]), st.floats(), st.text()
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.mark.needs("cpu")
@given(
    prompt=JSON,
    numbers=st.fixed_dictionaries(
        dict.fromkeys(("n", "max_tokens", "max_completion_tokens", "max_output_tokens"), NUMBERS)
    ),
    key=st.sampled_from(["messages", "prompt", "input", "model", "prompt_cache_key"]),
    whole=st.sampled_from([0, 1 << 16, 1 << 60, 10**400]),
)
def test_no_body_outweighs_the_load_of_a_fleet(prompt, numbers, key, whole):
    asked = read_prompt(json.dumps({**numbers, key: prompt}).encode(), whole=whole)
    it = balanced("a", "b")
    assert set(it.choose(asked, 0.0)) == {"a", "b"}
    loads = sorted(it.router.load(name) for name in "ab")
    assert loads[0] == 0
    assert 1 <= loads[1] <= MOST_TOKENS


def test_more_answers_than_a_replica_gives_count_as_the_most_that_it_gives():
    assert (prompt_balancer.MOST_ANSWERS, prompt_balancer.MOST_TEXTS) == (
        messages.MOST_ANSWERS,
        messages.MOST_TEXTS,
    )
    assert read_prompt(body("", n=10**12)).answers == messages.MOST_ANSWERS
    many = json.dumps({"prompt": ["a"] * 10_000, "max_tokens": 10**9}).encode()
    assert read_prompt(many).answers == messages.MOST_TEXTS
    it = balanced("a")
    it.choose(read_prompt(body("", n=10**12)), 0.0)
    assert it.router.load("a") < 2 * messages.MOST_ANSWERS * it.expected_answer


def test_a_session_is_named_by_the_header_or_by_the_key_of_the_cache():
    assert read_prompt(body("", prompt_cache_key="k")).session == "k"
    assert read_prompt(body("", prompt_cache_key="k"), session="s").session == "s"
    assert read_prompt(body("", user="u")).session == ""


# --- Where it goes.


def test_it_goes_where_least_is_to_do_in_tokens_not_in_requests():
    it = balanced("a", "b")
    it.report("a", held(9000, taken=1), 0.0)
    for _ in range(5):
        it.report("b", TokenLoad(running=30, held_tokens=3000, memory_tokens=1 << 20), 0.0)
        assert it.choose(AskedPrompt(size=400), 0.1) == ("b", "a")


def test_what_was_sent_counts_until_the_replica_reports_it():
    it = balanced("a", "b")
    (first, _) = it.choose(AskedPrompt(size=4000, identity="r1"), 0.0)
    assert it.router.load(first) == 1000 + prompt_balancer.ASSUMED_ANSWER
    it.report(first, held(2000), 0.2, taken=[("r1", 2000)])
    assert it.router.load(first) == 2000
    assert it.tokens_per_byte == pytest.approx(3000 / 8000), "and tells how many tokens a byte has"
    it.report(first, TokenLoad(), 0.4)
    assert it.router.load(first) == 0


def test_a_request_that_was_tried_again_counts_where_it_is():
    it = balanced("a", "b")
    first, then = it.choose(AskedPrompt(size=4000, identity="r1"), 0.0)
    it.report(then, held(1100), 0.2, taken=[("r1", 1000)])
    assert (it.router.load(first), it.router.load(then)) == (0, 1100)


@pytest.mark.parametrize("hears", [True, False])
def test_a_session_stays_where_its_request_was_tried_again(hears):
    """The replica that has it says so, or the first one is known to have ended."""
    it = balanced(*"abcd")
    first, then = it.choose(AskedPrompt(session="s", identity="r1"), 0.0)
    if hears:
        it.report(then, held(9000), 0.1, taken=[("r1", 10)])
    else:
        it.publish([name for name in "abcd" if name != first])
    assert it.choose(AskedPrompt(session="s"), 0.2)[0] == then


def test_a_request_that_no_replica_names_is_forgotten():
    it = balanced("a")
    it.report("a", held(10), 0.0, taken=[("before", 1)])
    it.choose(AskedPrompt(size=4000, identity="refused"), 1.0)
    it.report("a", held(10), 5.0)
    assert it.router.load("a") > 1000
    it.choose(AskedPrompt(size=0, most=1), 20.0)
    assert it.router.load("a") == 11
    it.choose(AskedPrompt(size=4000, identity="refused"), 21.0)
    it.report("a", TokenLoad(), 22.5)
    assert it.router.load("a") == 0, "a replica with nothing to do has nothing"


def test_a_replica_that_reports_no_tokens_counts_by_its_requests():
    it = balanced("a", "b")
    it.choose(AskedPrompt(blocks=list(range(8)), size=8 * BLOCK), 0.0)
    it.report("a", None, 5.0, open_calls=3)
    it.report("b", None, 5.0, open_calls=1)
    assert it.router.load("a") == 3 * (1024 + 128)
    assert it.choose(AskedPrompt(), 5.0)[0] == "b"


def test_sessions_stay_until_their_replica_leaves_or_is_crowded():
    it = balanced("a", "b", "c")
    home, other = it.choose(AskedPrompt(session="s"), 0.0)
    it.report(home, held(50_000), 0.1)
    it.report(other, held(10), 0.1)
    assert it.choose(AskedPrompt(session="s", size=4000), 0.2)[0] == home
    it.report(home, TokenLoad(running=8, waiting=3, held_tokens=50_000), 0.3)
    assert it.choose(AskedPrompt(session="s", size=4000), 0.4)[0] != home
    assert it.facts().moved == 1
    home = it.choose(AskedPrompt(session="t"), 0.5)[0]
    it.publish([name for name in "abc" if name != home])
    moved = it.choose(AskedPrompt(session="t"), 0.6)[0]
    assert moved != home
    it.publish("abc")
    assert it.choose(AskedPrompt(session="t"), 0.7)[0] == moved


def test_a_version_on_trial_gets_its_share_and_sessions_stay_with_their_version():
    it = PromptBalancer()
    it.publish("abcd", new="d", share=0.1)
    found = [it.choose(AskedPrompt(size=400), 0.0)[0] for _ in range(1000)]
    assert found.count("d") == pytest.approx(100, abs=1)
    assert {found.count(name) > 200 for name in "abc"} == {True}
    assert all(it.choose(AskedPrompt(version="new"), 0.0) == ("d",) for _ in range(5))
    assert all("d" not in it.choose(AskedPrompt(version="old"), 0.0) for _ in range(5))
    sessions = {f"s{at}": it.choose(AskedPrompt(session=f"s{at}"), 0.0)[0] for at in range(1000)}
    assert 60 < sum(name == "d" for name in sessions.values()) < 145
    assert all(
        (it.choose(AskedPrompt(session=each), 0.0)[0] == "d") == (name == "d")
        for each, name in sessions.items()
    )


def test_an_idle_fleet_sends_what_only_begins_alike_to_memory_that_is_free():
    it = balanced("a", "b")
    it.report("a", TokenLoad(memory_tokens=64 * BLOCK // 4), 0.0)
    for number in range(40):
        blocks = ["system", *((number, at) for at in range(7))]
        sent = it.choose(AskedPrompt(blocks=blocks, size=8 * BLOCK, identity=str(number)), float(number))
        for name in "ab":
            it.report(
                name, TokenLoad(memory_tokens=64 * BLOCK // 4), number + 0.5, taken=[(str(number), 1024)]
            )
        assert it.choose(AskedPrompt(blocks=blocks, size=8 * BLOCK), number + 0.6)[0] == sent[0]
        for name in "ab":
            it.report(name, TokenLoad(memory_tokens=64 * BLOCK // 4), number + 0.9)
    assert all(it.router.memory(name) == 64 for name in "ab")


@pytest.mark.needs("cpu")
def test_what_clients_send_takes_bounded_memory(monkeypatch):
    monkeypatch.setattr(prompt_balancer, "MOST_SESSIONS", 50)
    monkeypatch.setattr(prompt_balancer, "MOST_OPEN", 60)
    monkeypatch.setattr(prompt_balancer, "MOST_BLOCKS", 300)
    it = balanced(*"abc")
    long = "x" * 4096
    tracemalloc.start()
    for number in range(1000):
        name = long + str(number)
        asked = AskedPrompt(blocks=[(number, at) for at in range(9)], size=4000, session=name, identity=name)
        it.choose(asked, 0.0)
    del name, asked
    kept = sum(trace.size for trace in tracemalloc.take_snapshot().traces if trace.size >= len(long))
    tracemalloc.stop()
    assert kept < 40 * len(long), "texts of clients are not kept"
    assert len(it._sessions) == 50
    assert (
        len(it._all_sent)
        == len(it._by_identity)
        == sum(len(each.sent) for each in it._replicas.values())
        == 60
    )
    assert sum(it.router.memory(name) for name in "abc") <= 300


@pytest.mark.needs("cpu")
@given(st.integers(0, 2**32))
def test_the_account_of_any_history(seed):
    """Requests, reports, losses, repeated ids, replicas that come and go: loads are what was reported and what is on its way."""
    draw = random.Random(seed)
    it, now, names = PromptBalancer(), 0.0, list("abcd")
    it.publish(names[:2])
    way: list[str] = []
    for _ in range(60):
        now += draw.choice([0.0, 0.1, 3.0])
        what = draw.random()
        if what < 0.6:
            identity = draw.choice(["", "same", str(draw.random())])
            chosen = it.choose(
                AskedPrompt(size=draw.randrange(5000), identity=identity, session=draw.choice(["", "s"])), now
            )
            assert 1 <= len(set(chosen)) == len(chosen) <= 2
            way.append(identity)
        elif what < 0.9:
            taken = [
                (way.pop(draw.randrange(len(way))), draw.randrange(900))
                for _ in range(draw.randrange(3))
                if way
            ]
            load = draw.choice(
                [
                    None,
                    TokenLoad(),
                    held(
                        draw.randrange(9000),
                        steps=draw.randrange(9),
                        work=StepWork(9, 9, 9, 9),
                        busy_s=draw.random(),
                    ),
                ]
            )
            it.report(draw.choice(names), load, now, taken=taken, open_calls=draw.randrange(3))
        else:
            it.publish(
                draw.sample(names, draw.randint(1, 4)),
                new=draw.sample(names, 1),
                share=draw.choice([None, 0.3]),
            )
        for name, known in it._replicas.items():
            assert known.sent_tokens == sum(each.tokens for each in known.sent.values())
            assert it.router.load(name) == known.held + known.sent_tokens
        assert sum(map(len, it._by_identity.values())) <= sum(
            len(each.sent) for each in it._replicas.values()
        )


# --- Speeds.


def test_speeds_are_of_replicas_not_of_their_work():
    """A step takes 10 ms and 1 ms a token; one replica takes five times as long, one has other work."""
    it, draw = StepSpeeds(), random.Random(1)
    for at in range(200):
        for name, slower, most in (("a", 1, 20), ("b", 1, 200), ("slow", 5, 20)):
            steps = draw.randint(1, 10)
            computed = sum(draw.randint(1, most) for _ in range(steps))
            it.observe(
                name,
                at / 5,
                steps=steps,
                work=(computed, steps, 0, 0),
                busy_s=slower * (0.01 * steps + 0.001 * computed),
            )
            found = it.speeds()
    assert found["a"] == found["b"] == 1.0
    assert found["slow"] == pytest.approx(0.2, rel=0.15)
    for at in range(300):
        it.observe("slow", 40 + at, steps=0, work=(0, 0, 0, 0), busy_s=0.0)
    assert it.speeds()["slow"] == 1.0, "it is tried again"


LAW = (8e-3, 4e-5, 1e-4, 1e-7, 2e-9)
"""Seconds of a step, and of each part of its work: some small model on some accelerator."""


def observed(it: StepSpeeds, *, of: dict[str, tuple[int, float]], reports: int = 60, seed: int = 1) -> None:
    """Reports of replicas with answers of such a context, which take so many times what the law says; steps vary by 8 %."""
    draw = random.Random(seed)
    for at in range(reports):
        for name, (context, slower) in of.items():
            steps, busy_s, sums = draw.randint(5, 20), 0.0, (0, 0, 0, 0)
            for _ in range(steps):
                running = draw.randint(1, 32)
                prompt = draw.choice((0, 0, 0, draw.randint(1, context)))
                seen = round(running * context * draw.uniform(0.5, 1.5))
                work = StepWork(prompt, running + (prompt > 0), seen, prompt * (prompt + 1) // 2)
                took_s = sum(each * part for each, part in zip(LAW, (1, *work), strict=True))
                busy_s += slower * took_s * (0.92 + draw.expovariate(1 / 0.08))
                sums = tuple(map(add, sums, work))
            it.observe(name, at / 5, steps=steps, work=sums, busy_s=busy_s)
        if at % 5 == 4:
            it.speeds()


@pytest.mark.parametrize("reports", [10, 60, 300])
def test_long_contexts_are_no_slowness(reports):
    """Steps of contexts of 8,000 tokens take some three times as long as those of 200."""
    it = StepSpeeds()
    observed(it, of={"long": (8000, 1), "short": (200, 1)}, reports=reports)
    assert it.speeds() == {"long": 1.0, "short": 1.0}


@pytest.mark.parametrize("slow", ["long", "short", "middle"])
def test_slowness_is_seen_beside_long_contexts(slow):
    it = StepSpeeds()
    contexts = {"long": 8000, "short": 200, "middle": 2000, "other": 4000}
    observed(it, of={name: (context, 5 if name == slow else 1) for name, context in contexts.items()})
    found = it.speeds()
    assert found.pop(slow) == pytest.approx(0.2, rel=0.25), found
    assert set(found.values()) == {1.0}


@pytest.mark.parametrize(("long", "short"), [(5, 1), (1, 5)])
def test_of_two_the_slow_one_is_seen_whatever_its_work(long, short):
    it = StepSpeeds()
    observed(it, of={"long": (8000, long), "short": (200, short)})
    found = it.speeds()
    assert min(found.values()) == found["long" if long > short else "short"] < 0.65


def test_without_reports_or_with_a_single_one_all_are_alike():
    it = StepSpeeds()
    assert it.speeds() == {}
    it.observe("a", 0.0, steps=0, work=(0, 0, 0, 0), busy_s=0.0)
    assert it.speeds() == {"a": 1.0}
    it.observe("a", 0.2, steps=9, work=(900, 9, 0, 4500), busy_s=0.3)
    it.observe("b", 0.2, steps=2, work=(0, 20, 9000, 0), busy_s=0.3)
    assert it.speeds() == {"a": 1.0, "b": 1.0}


@given(st.integers(0, 2**32))
def test_the_least_squares_have_no_part_below_0(seed):
    draw = np.random.default_rng(seed)
    rows = draw.exponential(size=(40, 5)) * (1, 100, 10, 1e4, 1e6)
    law = np.array(LAW) * (draw.random(5) < 0.7)
    found = non_negative((rows.T @ rows).tolist(), (rows.T @ (rows @ law)).tolist())
    assert min(found) >= 0
    assert rows @ found == pytest.approx(rows @ law, rel=0.05, abs=1e-6)


@pytest.mark.needs("cpu")
def test_a_slow_replica_is_steered_around():
    """One of four is ten times slower, at three quarters of the load that they bear together."""
    waits = TokenFleet([1, 1, 1, 10], seed=3).run(seconds=40, of_capacity=0.75)
    of_others = TokenFleet([1, 1, 1], seed=3).run(seconds=40, of_capacity=0.75)
    assert waits.p99_s < 2 * of_others.p99_s + 0.1, (waits, of_others)
    assert waits.sent[3] < 0.6 * min(waits.sent[:3])
