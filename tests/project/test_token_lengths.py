"""Recorded lengths: what is shipped, a user's own, and what does not fit."""

import numpy as np
import pytest

from hooke import UsageError
from hooke.project.token_lengths import asked_lengths, known_lengths, read_lengths


def test_the_shipped_ones_are_whole_traces():
    assert known_lengths() == ["azure-code", "azure-conversation", "mooncake"]
    counts = {name: len(read_lengths(name)) for name in known_lengths()}
    assert counts == {"azure-code": 8819, "azure-conversation": 19366, "mooncake": 12031}
    conversation = read_lengths("azure-conversation")
    assert (conversation.prompts[0], conversation.outputs[0]) == (374, 44)
    assert conversation.due is not None
    assert 3500 < conversation.due[-1] < 3503
    assert (np.diff(conversation.due) >= 0).all()


def test_lengths_are_scaled_and_what_does_not_fit_is_left_out_and_counted():
    small = read_lengths("azure-code").scaled(0.05)
    fits = small.fitting(256)
    assert fits.left_out == len(small) - len(fits) > 0
    assert (fits.prompts + fits.outputs).max() <= 256
    assert fits.prompts.min() >= 1
    assert fits.due is not None
    assert len(fits.due) == len(fits)
    with pytest.raises(UsageError, match="no request") as refused:
        read_lengths("azure-code").fitting(2)
    assert "--length-scale" in (refused.value.fix or "")


def test_a_file_of_ones_own(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("t,prompt,output\n12.5,10,3\n10,20,4\n")
    found = read_lengths(str(file))
    assert (found.prompts.tolist(), found.outputs.tolist()) == ([20, 10], [4, 3])
    assert found.due is not None
    assert found.due.tolist() == [0.0, 2.5]
    file.write_text("prompt,output\n10,3\n")
    assert read_lengths(str(file)).due is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prompt\n3\n", "no column 'output'"),
        ("prompt,output\n", "has no requests"),
        ("prompt,output\n3,x\n", "line 2"),
        ("prompt,output\n3,0\n", "line 2"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, text, said):
    file = tmp_path / "mine.csv"
    file.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_lengths(str(file))


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(UsageError, match="no lengths 'azure'") as refused:
        read_lengths("azure")
    assert "azure-conversation" in (refused.value.fix or "")


def test_a_factor_needs_lengths():
    assert asked_lengths(None, 1.0) is None
    found = asked_lengths("azure-code", 0.1)
    assert found is not None
    assert found.name == "azure-code x 0.1"
    with pytest.raises(UsageError, match="--length-scale has no lengths") as refused:
        asked_lengths(None, 0.1)
    assert "--lengths" in (refused.value.fix or "")


def test_a_prompt_without_tokens_is_refused(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("prompt,output\n3,1\n0,3\n")
    with pytest.raises(UsageError, match="line 3"):
        read_lengths(str(file))
