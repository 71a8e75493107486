"""Each format with its real library: what comes back, what plain MLflow is told, what is refused."""

import sys

import numpy as np
import pytest

from hooke.base.errors import HookeError, UntrustedModel, UsageError
from hooke.models.format import FORMATS, LoadOptions, format_of

pytestmark = [pytest.mark.needs("processes"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]

ROWS = np.random.default_rng(0).random((60, 3))
LATE = (ROWS[:, 0] > 0.5).astype(int)


def known(**more) -> LoadOptions:
    return LoadOptions(label="m:1", known=True, **more)


def round_trip(model, folder, *, save=LoadOptions(label="m"), load=known()):
    format = FORMATS.load(format_of(model))()
    saved = format.save(model, folder, save)
    return format.load(folder, saved.details, load), saved


class TestSkops:
    @pytest.mark.parametrize("kind", ["forest", "boosting", "pipeline"])
    def test_round_trip(self, tmp_path, kind):
        from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        made = {
            "forest": RandomForestClassifier(5, random_state=0),
            "boosting": HistGradientBoostingClassifier(max_iter=5),
            "pipeline": make_pipeline(StandardScaler(), LogisticRegression()),
        }[kind].fit(ROWS, LATE)
        read, saved = round_trip(made, tmp_path)
        assert np.array_equal(read.predict_proba(ROWS), made.predict_proba(ROWS))
        assert saved.flavors["sklearn"]["serialization_format"] == "skops"

    def test_a_forest_of_strangers_is_refused_by_its_types(self, tmp_path):
        from sklearn.ensemble import RandomForestClassifier

        made = RandomForestClassifier(2, random_state=0).fit(ROWS, LATE)
        with pytest.raises(UntrustedModel, match=r"m:1 .* not trusted: sklearn.tree._tree.Tree"):
            round_trip(made, tmp_path, load=LoadOptions(label="m:1"))
        trusted = LoadOptions(label="m:1", trust=("sklearn.tree._tree.Tree",))
        read, _ = round_trip(made, tmp_path, load=trusted)
        assert np.array_equal(read.predict(ROWS), made.predict(ROWS))

    def test_a_class_of_the_users_own_is_refused_by_name_unless_it_is_trusted(self, tmp_path):
        name = f"{Threshold.__module__}.Threshold"
        with pytest.raises(UntrustedModel, match=f"not trusted: {name}") as refused:
            round_trip(threshold()(), tmp_path)
        assert f"trust=['{name}']" in refused.value.fix
        read, _ = round_trip(threshold()(0.25), tmp_path, save=LoadOptions(label="m", trust=(name,)))
        assert read.level == 0.25


class Threshold:
    """Becomes an estimator when scikit-learn is there."""

    def __init__(self, level=0.5):
        self.level = level

    def predict(self, rows):
        return rows[:, 0] > self.level


def threshold():
    from sklearn.base import BaseEstimator

    kind = type(
        "Threshold", (Threshold, BaseEstimator), {"__module__": __name__, "__init__": Threshold.__init__}
    )
    sys.modules.setdefault(__name__, sys.modules[Threshold.__module__])
    sys.modules[__name__].Threshold = kind
    return kind


class TestOnnx:
    @pytest.fixture
    def double(self):
        from onnx import TensorProto, helper

        rows, out = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in ("rows", "out")
        )
        graph = helper.make_graph(
            [helper.make_node("Add", ["rows", "rows"], ["out"])], "double", [rows], [out]
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)

    def test_a_proto_and_its_bytes_run(self, tmp_path, double):
        rows = ROWS.astype(np.float32)
        for at, model in enumerate((double, double.SerializeToString())):
            folder = tmp_path / str(at)
            folder.mkdir()
            read, saved = round_trip(model, folder)
            assert np.array_equal(read.predict(rows), 2 * rows)
            assert np.array_equal(read.predict({"rows": rows}), 2 * rows)
            assert (read.inputs, read.outputs) == (["rows"], ["out"])
            assert saved.flavors["python_function"]["loader_module"] == "mlflow.onnx"
            with pytest.raises(UsageError, match="valid: rows"):
                read.predict({"row": rows})

    def test_what_is_no_graph_is_refused_when_it_is_registered(self, tmp_path):
        with pytest.raises(HookeError, match="onnxruntime cannot run m"):
            round_trip(b"not a graph", tmp_path)


class TestSafetensors:
    def test_layers_in_a_row_are_made_again(self, tmp_path):
        import torch
        from torch import nn

        torch.manual_seed(0)
        made = nn.Sequential(
            nn.Conv1d(1, 4, 3, padding=(1,)), nn.ReLU(), nn.Flatten(), nn.Linear(12, 1, bias=False)
        )
        rows = torch.rand(5, 1, 3)
        before = torch.random.get_rng_state()
        read, saved = round_trip(made, tmp_path)
        assert torch.equal(read(rows), made(rows))
        assert torch.equal(torch.random.get_rng_state(), before), "what the program draws next is not changed"
        assert saved.notes == ()
        assert not read.training
        assert not (tmp_path / "model.pkl").exists()

    def test_a_class_whose_arguments_are_its_attributes_is_made_again(self, tmp_path):
        import torch

        made = net(width=7)
        read, saved = round_trip(made, tmp_path)
        assert torch.equal(read(torch.ones(2, 3)), made(torch.ones(2, 3)))
        assert saved.details["recipe"]["arguments"] == {"width": 7}

    def test_a_class_that_hides_its_arguments_keeps_its_weights_and_says_what_is_missing(self, tmp_path):
        import torch

        made = hiding(5)
        format = FORMATS.load("safetensors")()
        saved = format.save(made, tmp_path, LoadOptions(label="m"))
        assert "takes 'width', which is not a plain attribute" in saved.notes[0]
        assert "into=" in saved.notes[0]
        assert saved.flavors == {}
        with pytest.raises(HookeError, match="m:1 has only weights") as refused:
            format.load(tmp_path, saved.details, known())
        assert "into=Net(...)" in refused.value.fix
        read = format.load(tmp_path, saved.details, known(into=hiding(5)))
        assert torch.equal(read(torch.ones(2, 3)), made(torch.ones(2, 3)))
        with pytest.raises(HookeError, match="the weights of m:1 do not fit"):
            format.load(tmp_path, saved.details, known(into=hiding(6)))

    @pytest.mark.parametrize(
        "named", ["os:system", "builtins:print", "nowhere:Net", "torch.nn:Nothing", "torch:Tensor"]
    )
    def test_a_recipe_makes_nothing_but_modules(self, tmp_path, named):
        import torch

        format = FORMATS.load("safetensors")()
        format.save(torch.nn.Linear(1, 1), tmp_path, LoadOptions(label="m"))
        recipe = {"class": named, "arguments": {}}
        with pytest.raises(HookeError, match="the module of m:1 cannot be built"):
            format.load(tmp_path, {"recipe": recipe, "why": ""}, known())

    def test_a_stranger_has_nothing_imported(self, tmp_path, monkeypatch):
        import torch

        monkeypatch.delitem(sys.modules, "this", raising=False)  # another test's

        format = FORMATS.load("safetensors")()
        saved = format.save(torch.nn.Sequential(torch.nn.Linear(1, 1)), tmp_path, LoadOptions(label="m"))
        read = format.load(tmp_path, saved.details, LoadOptions(label="m:1"))
        assert isinstance(read[0], torch.nn.Linear)
        recipe = {
            "class": "torch.nn.modules.container:Sequential",
            "children": [["0", {"class": "this:Zen", "arguments": {}}]],
        }
        with pytest.raises(UntrustedModel, match="modules that are not imported: this"):
            format.load(tmp_path, {"recipe": recipe, "why": ""}, LoadOptions(label="m:1"))
        assert "this" not in sys.modules

    def test_rows_get_the_type_of_the_weights(self):
        import torch

        format, model = FORMATS.load("safetensors")(), torch.nn.Linear(3, 2)
        answer = format.predict(model, ROWS)
        assert answer.dtype == np.float32
        assert answer.shape == (60, 2)
        assert model.training, "left as it was"


def net(width):
    from torch import nn

    class Net(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.width = width
            self.inner = nn.Linear(3, width)

        def forward(self, rows):
            return self.inner(rows).sum(1)

    return _named(Net)(width)


def hiding(width):
    from torch import nn

    class Hiding(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.inner = nn.Linear(3, width)

        def forward(self, rows):
            return self.inner(rows)

    return _named(Hiding)(width)


def _named(kind):
    """As a class of this module: torch is not imported when it is collected."""
    kind.__qualname__ = kind.__name__
    setattr(sys.modules[__name__], kind.__name__, kind)
    return kind


def test_a_module_without_parameters_keeps_its_buffers(tmp_path):
    import torch

    made = torch.nn.Sequential(torch.nn.BatchNorm1d(2, affine=False)).eval()
    made[0].running_mean.fill_(3.0)
    read, _ = round_trip(made, tmp_path)
    assert torch.equal(read(torch.ones(1, 2)), made(torch.ones(1, 2)))
