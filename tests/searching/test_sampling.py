"""What a search asks for: its space, its samplers and its pruners."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooke import UsageError, loguniform
from hooke.searching.sampling import Sampling
from hooke.searching.space import Choice, Number, parse_space

SPACE = {
    "x": (0.0, 1.0),
    "depth": range(1, 20, 3),
    "rate": loguniform(1e-4, 1e-1),
    "kind": ["a", None, ("b", 2)],
}


class TestSpace:
    def test_its_vocabulary(self):
        assert parse_space(
            {"a": (1, 5), "b": (1, 5.0), "c": range(9, 1, -4), "d": loguniform(1, 8), "e": [True]}
        ) == {
            "a": Number(low=1, high=5, whole=True),
            "b": Number(low=1, high=5.0, whole=False),
            "c": Number(low=5, high=9, whole=True, step=4),
            "d": Number(low=1, high=8, whole=True, log=True),
            "e": Choice(values=(True,)),
        }

    @pytest.mark.parametrize(
        "wrong",
        [
            {},
            [],
            {"a": 3},
            {"a": (1, 2, 3)},
            {"a": (5, 1)},
            {"a": []},
            {"a": "xyz"},
            {"a": (0, math.inf)},
            {"a": (True, 5)},
            {"a": range(0)},
        ],
    )
    def test_what_is_no_space_is_refused(self, wrong):
        with pytest.raises(UsageError) as caught:
            parse_space(wrong)
        assert "low, high" in caught.value.fix

    @pytest.mark.parametrize("ends", [(0, 1), (-1, 1), (3, 2), ("a", "b"), (1, math.inf)])
    def test_a_logarithm_needs_positive_ends(self, ends):
        with pytest.raises(UsageError, match="0 < low <= high"):
            loguniform(*ends)


def sampling(seed: int = 0, sampler: object = "tpe", pruner: object = "none") -> Sampling:
    return Sampling(parse_space(SPACE), direction="minimize", sampler=sampler, pruner=pruner, seed=seed)


def value_of(asked: dict[str, float]) -> float:
    return (asked["x"] - 0.3) ** 2 + asked["depth"] / 100


@pytest.mark.needs("processes")  # Optuna takes a second to import
class TestSampling:
    @pytest.mark.parametrize("sampler", ["tpe", "random"])
    @given(seed=st.integers(-5, 2**40), killed_at=st.integers(0, 13))
    @settings(max_examples=5, deadline=None)
    def test_it_goes_on_as_if_it_had_not_been_killed(self, sampler, seed, killed_at):
        whole, asked = sampling(seed, sampler), []
        for trial in range(14):
            asked.append(whole.ask(trial))
            whole.tell(trial, "finished", value_of(asked[-1]))
        again = sampling(seed, sampler)
        for trial in range(killed_at):
            assert again.ask(trial, asked[trial]) == asked[trial]
            again.tell(trial, "finished", value_of(asked[trial]))
        assert again.ask(killed_at) == asked[killed_at]

    def test_what_it_asks_is_in_the_space(self):
        space = parse_space(SPACE)
        for trial in range(5):
            asked = sampling(trial).ask(0)
            values = {name: space[name].value(asked[name]) for name in space}
            assert 0 <= values["x"] <= 1
            assert values["depth"] in SPACE["depth"]
            assert isinstance(values["depth"], int)
            assert 1e-4 <= values["rate"] <= 1e-1
            assert values["kind"] in SPACE["kind"]

    def test_a_pruner_gives_up_what_is_worse_at_a_step(self):
        study = sampling(pruner="median")
        for trial in range(6):
            study.ask(trial)
            assert not study.report(trial, [(0, 1.0), (1, 1.0), (1, 99.0), (-3, 99.0)])
            study.tell(trial, "finished", 1.0)
        study.ask(6)
        assert not study.report(6, [(0, 0.9)])
        study.ask(7)
        assert study.report(7, [(0, 2.0), (1, 0.0)])
        study.tell(7, "pruned", None)
        study.tell(6, "failed", None)

    def test_samplers_and_pruners_of_optuna_are_taken_as_they_are(self):
        import optuna

        study = sampling(
            sampler=optuna.samplers.TPESampler(seed=1),
            pruner=optuna.pruners.NopPruner(),
        )
        assert study.ask(0).keys() == SPACE.keys()

    @pytest.mark.parametrize(
        "wrong", [{"sampler": "tep"}, {"pruner": "medain"}, {"sampler": 3}, {"pruner": object()}]
    )
    def test_what_is_neither_is_refused(self, wrong):
        with pytest.raises(UsageError, match="valid: "):
            sampling(**wrong)

    def test_optuna_is_as_talkative_as_before(self, capfd):
        import optuna

        before = optuna.logging.get_verbosity()
        sampling().ask(0)
        assert capfd.readouterr().err == ""
        assert optuna.logging.get_verbosity() == before
