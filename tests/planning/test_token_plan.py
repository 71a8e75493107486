"""What a language model's service can do, from the windows of a run: its curve, the replicas that users need, and the price of tokens."""

import json
import math
import socket

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from tests.generation.test_token_law import windows

from hooke import NotEnoughData, UsageError
from hooke.base.clock import SystemClock
from hooke.cli.entry import hooke as command
from hooke.cli.screens import CommandSession
from hooke.generation.token_law import StepNoise, TokenLaw
from hooke.generation.token_scheduler import TokenLimits
from hooke.generation.token_times import TokenTraffic, simulate
from hooke.journal.events import RunStarted
from hooke.journal.run_folders import DRIVER
from hooke.journal.writer import Journal
from hooke.planning.token_plan import (
    KnownSteps,
    TokenQuestion,
    known_steps,
    plan_tokens,
    sustained_rate,
    token_curve,
    token_plan_facts,
    token_plan_text,
)
from hooke.project.folder import Project
from hooke.project.token_lengths import TokenLengths
from hooke.services.serve_file import load_service
from hooke.serving.slo import Slo

SERVICE = """
from hooke import service

@service(protocol="openai", cpus=2)
class Words:
    def encode(self, prompt):
        return [1]

    def decode(self, tokens):
        return ""

    def step(self, pieces):
        return None
"""
PRICES = """# source: our own
# date: 2026-11-25
instance_type,gpu,gpus,vcpus,memory_gib,usd_per_hour,spot_usd_per_hour,reserved_usd_per_hour,speed
small,,0,1,1,0.10,,,1
alike,,0,4,16,0.40,,,1
fast,,0,8,64,1.20,,,2-2.5
unknown,,0,8,64,0.10,,,
"""
LENGTHS = TokenLengths(name="mine", prompts=np.array([200, 400, 600]), outputs=np.array([20, 40, 60]))
SLO = Slo(95, 1.0, of_tokens=True, each_s=0.05)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A project with a service, a run of it that determines the law, and prices."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "words_of_ours.py").write_text(SERVICE)
    promising = SERVICE.replace("cpus=2", 'cpus=2, slo="p99 first < 50ms, each < 50ms"')
    (folder / "promising_words.py").write_text(promising)
    (folder / "short.csv").write_text("prompt,output\n20,4\n40,8\n")
    (folder / "ours.csv").write_text(PRICES)
    project = Project.find(folder)
    project.create()
    declared, _ = load_service(f"{folder}/words_of_ours.py:Words")
    put(project, "Words-1", windows(1))
    put(project, "Words-0", windows(1, count=2))
    return folder, project, declared


def put(project, run, told):
    folder = project.runs.create(run)
    with Journal.create(folder, DRIVER, durable="group", clock=SystemClock()) as journal:
        journal.append(
            RunStarted(
                run=run,
                pipeline="Words",
                entry="words_of_ours.py:Words",
                kind="service",
                host=socket.gethostname(),
            )
        )
        for each in told:
            journal.append(
                msgspec.structs.replace(
                    each, answers=10, answer_tokens=300, token_limits=(16, 512, 2048, 2048, 16)
                )
            )


@pytest.mark.needs("cpu")
def test_the_curve_has_times_and_a_knee_and_can_be_drawn(kept, tmp_path):
    _, project, _ = kept
    known = known_steps(project.runs, "Words-1")
    assert (known.limits.slots, known.limits.context) == (16, 2048)
    made = token_curve(known, LENGTHS, name="Words")
    assert [each.at_once for each in made.levels] == [1, 2, 4, 8, 12, 16, 32]
    first, last = made.levels[0], made.levels[-1]
    assert first.tokens.value < made.levels[4].tokens.value
    assert first.each_p50.value < made.levels[5].each_p50.value
    assert last.first_p95.value > 2 * made.levels[5].first_p95.value  # there are 16 slots: others wait
    text = made.text(width=100, plain=True)
    assert "first token p50" in text
    assert "knee" in text
    assert "serial fraction\n" not in text, "one table: two would differ by what they are means of"
    assert "measure at" not in text and "simulated" in text, (
        "there are 16 slots, so there is no N = 32 to measure"
    )
    assert made.facts()["next_measurement"] is None
    assert len(json.loads(json.dumps(made.facts()))["levels"]) == 7
    assert made.save(tmp_path / "curve.svg").read_text().startswith("<?xml")
    figure = made.to_plotly()
    assert {"first token, p95", "each token, p95"} <= {trace.name for trace in figure.data}


@pytest.mark.needs("cpu")
def test_without_lengths_the_mean_of_the_run_is_meant(kept):
    _, project, _ = kept
    known = known_steps(project.runs, "Words-1")
    assert known.lengths is not None
    assert known.lengths.outputs.tolist() == [30]  # and not the parts of prompts, too
    assert "the mean of the run's requests" in token_curve(known).text(width=200, plain=True)


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_the_plan_names_replicas_and_prices_cheapest_first(kept):
    folder, project, declared = kept
    question = TokenQuestion(
        declared=declared,
        rate=20.0,
        users="400 users, a request every 20s each",
        slo=SLO,
        lengths=LENGTHS,
        catalog=str(folder / "ours.csv"),
    )
    made = plan_tokens(question, project)
    here, *others = made.offers
    assert here.rate is not None
    assert here.rate.interval[0] <= here.rate.value <= here.rate.interval[1]
    assert here.replicas is not None
    assert here.replicas[2] == math.ceil(20.0 / here.rate.interval[0])
    by_name = {each.machine.name: each for each in others}
    assert by_name["unknown"].refused == "speed unknown"
    assert by_name["small"].refused == "too small for a replica"
    alike, fast = by_name["alike"], by_name["fast"]
    assert (alike.each, fast.each) == (2, 4)
    assert alike.rate == here.rate
    assert fast.rate is not None
    assert fast.rate.value > 1.8 * here.rate.value
    priced = [each.usd_per_hour for each in others if each.usd_per_hour is not None]
    assert priced == sorted(priced)
    assert alike.blended is not None
    assert alike.instances is not None
    assert alike.blended.interval[1] == pytest.approx(alike.instances[2] * 0.4 / 3600 / (20 * 440) * 1e6)
    assert alike.input is not None
    assert alike.output is not None
    assert alike.input.value * 400 + alike.output.value * 40 == pytest.approx(alike.blended.value * 440)
    text = token_plan_text(made)
    assert "400 users" in text
    assert "assumed: requests come independently" in text
    assert "left out: 1 types whose speed is not known" in text
    facts = json.loads(json.dumps(token_plan_facts(made), allow_nan=False))
    assert facts["cheapest"] == made.cheapest.machine.id


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_an_slo_that_a_lone_request_misses_has_no_plan(kept):
    folder, project, declared = kept
    question = TokenQuestion(
        declared=declared,
        rate=1.0,
        slo=Slo(95, 1e-6, of_tokens=True),
        lengths=LENGTHS,
        catalog=str(folder / "ours.csv"),
    )
    made = plan_tokens(question, project)
    assert made.cheapest is None
    assert made.offers[0].refused == "even a lone request may miss the SLO"


def plan(folder, name, *words):
    """`hooke plan service` for one of the classes: its exit code, and what it said."""
    asked = ["plan", "service", f"{folder}/{name}.py:Words", "--rate", "5", "--json", *words]
    lists = ["--catalog", f"{folder}/ours.csv", "--lengths", f"{folder}/short.csv"]
    done = CliRunner().invoke(command, [*asked, *lists], obj=CommandSession(), standalone_mode=False)
    return done.return_value, json.loads(done.stdout)


@pytest.mark.long
@pytest.mark.needs("cpu")
def test_the_slo_of_the_class_is_planned_for_with_its_percentage(kept):
    folder, _, _ = kept
    _, own = plan(folder, "promising_words")
    _, other = plan(folder, "promising_words", "--slo", "p50 first < 50ms")
    assert own["slo"] == {"percent": 99, "first_s": 0.05, "each_s": 0.05}
    assert other["slo"] == {"percent": 50, "first_s": 0.05, "each_s": None}
    strict, lax = (each["offers"][0]["requests_per_s_of_a_replica"]["value"] for each in (own, other))
    assert strict < lax


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Words has no SLO"),
        (("--slo", "p99 < 1s"), "not for a language model"),
        (("--slo", "p95 first < 2s", "--replicas", "2"), "--replicas is not for language models"),
    ],
)
def test_a_plan_for_tokens_needs_an_slo_of_tokens(kept, words, said):
    code, facts = plan(kept[0], "words_of_ours", *words)
    assert code == 2
    assert said in facts["error"]["what"]


def even(slots):
    """A service whose steps take 20 ms whatever is in them, and lengths: all that is uncertain is who comes when."""
    step = np.array([0.02, 0.0, 0.0, 0.0, 0.0])
    noise = StepNoise(single=np.ones(8), shared=0.0, memory_s=5.0, freedom=50.0)
    law = TokenLaw(coefficients=step, left_out=np.tile(step, (10, 1)), noise=noise, steps=1000, block_s=10.0)
    limits = TokenLimits(slots=slots, step_tokens=1024, context=4096, max_waiting=1_000_000)
    outputs = np.maximum(np.random.default_rng(5).exponential(10, 2000).astype(int), 1)
    lengths = TokenLengths(name="mine", prompts=np.full(2000, 2), outputs=outputs)
    return KnownSteps(run="Words-1", host="here", law=law, limits=limits, lengths=lengths), lengths


@pytest.mark.needs("cpu")
def test_tokens_a_second_are_those_of_full_slots():
    known, _ = even(16)
    for level in token_curve(known).levels:
        assert level.tokens.value == pytest.approx(min(level.at_once, 16) / 0.02, rel=0.03)


@pytest.mark.long
@pytest.mark.needs("cpu")
@pytest.mark.parametrize("slots", [8, 64, 256])
def test_the_interval_of_a_plan_holds_the_rate_that_a_long_history_keeps(slots):
    known, lengths = even(slots)
    chance = np.random.default_rng(6)
    slo = Slo(95, 0.2, of_tokens=True)
    low, high = sustained_rate(known, lengths, slo).interval
    prompts, outputs = (each.tolist() for each in lengths.drawn(max(4000, 100 * slots), chance))
    gaps = np.cumsum(chance.exponential(1.0, len(prompts)))

    def good(rate):
        load = TokenTraffic(prompts=prompts, outputs=outputs, due=gaps / rate)
        told = simulate(known.limits, load, lambda *_: 0.02)
        return slo.kept(told.first_s, told.per_token_s).mean()

    assert good(low) > 0.95 > good(high)
    assert (
        0.4 < low * 0.02 * lengths.outputs.mean() / slots < high * 0.02 * lengths.outputs.mean() / slots < 1.4
    )


def test_what_is_lacking_is_said(kept, tmp_path):
    folder, project, declared = kept
    with pytest.raises(NotEnoughData, match="too few"):
        known_steps(project.runs, "Words-0")
    other = Project.find(tmp_path)
    other.create()
    with pytest.raises(UsageError, match="no run of Words") as refused:
        plan_tokens(TokenQuestion(declared=declared, rate=1.0, slo=SLO), other)
    assert "hooke bench" in (refused.value.next or "")
