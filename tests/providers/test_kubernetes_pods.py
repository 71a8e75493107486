"""Options of the provider of pods, which is tested on a cluster in tests/kubernetes."""

import pytest

from hooke.base.errors import UsageError
from hooke.providers.kubernetes_pods import KubernetesPods


def test_options_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(UsageError, match="unknown options: cpu") as caught:
        KubernetesPods("t", ["x"], logs=tmp_path, image="i", cpu=2)
    assert "cpus" in caught.value.fix
    with pytest.raises(UsageError, match="not a program with its arguments"):
        KubernetesPods("t", "x", logs=tmp_path, image="i")


@pytest.mark.parametrize("command", [5, None, "dask worker", [], ["dask", 1]])
def test_a_command_that_is_no_list_of_words(command, tmp_path):
    with pytest.raises(UsageError, match="is not a program with its arguments"):
        KubernetesPods("tag", command, logs=tmp_path, image="a:1")
