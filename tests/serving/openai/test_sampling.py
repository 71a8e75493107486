"""Tokens by their logits: the highest, by chance, after penalties; and what is told of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooke.serving.openai.sampling import TokenChooser, TokenSampling


def chosen(logits, **asked):
    return TokenChooser(TokenSampling(**asked)).choose(np.asarray(logits, dtype=float), [], 0)


def test_shares_are_those_of_the_softmax():
    chooser = TokenChooser(TokenSampling(seed=3))
    logits = np.log([0.5, 0.3, 0.2])
    counts = np.bincount([chooser.choose(logits, [], 0).token for _ in range(4000)], minlength=3)
    assert np.abs(counts / 4000 - [0.5, 0.3, 0.2]).max() < 0.03


@pytest.mark.needs("cpu")
@given(st.lists(st.floats(-50, 50), min_size=1, max_size=30), st.floats(0.01, 0.99), st.integers(0, 99))
def test_only_the_likeliest_of_top_p_come(logits, top_p, seed):
    shares = np.exp(np.asarray(logits) - max(logits))
    shares /= shares.sum()
    token = chosen(logits, top_p=top_p, seed=seed).token
    above = shares[shares > shares[token]].sum()
    assert above < top_p + 1e-9


def test_what_cannot_come_is_told_as_a_number():
    made = chosen([0.0, -np.inf], temperature=0, logprobs=2)
    assert [(each.token, each.logprob) for each in made.likely] == [(0, 0.0), (1, -9999.0)]


def test_biases_are_added_to_the_tokens_that_there_are():
    assert (
        chosen([0.0, 1.0, 2.0], temperature=0, logit_bias={1: 5.0, 2: -1.0, 7: 100.0, -1: 100.0}).token == 1
    )
    assert chosen([0.0, 1.0, 2.0], temperature=0, logit_bias={7: 100.0}).token == 2


@pytest.mark.parametrize("asked", [{"temperature": 0}, {"seed": 1}])
def test_logits_that_are_not_numbers_are_refused(asked):
    with pytest.raises(ValueError, match="not numbers"):
        chosen([np.nan, np.nan], **asked)
