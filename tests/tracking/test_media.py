"""Images and histograms that are logged: what the files hold, what is refused and why, and what a kill leaves."""

import io
import math
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from tests.tracking.conftest import logged

import hooke
from hooke.journal.events import ArtifactLogged
from hooke.project.folder import Project
from hooke.tracking.log import histogram_bytes, image_bytes
from hooke.tracking.logged_values import Artifact, HistogramFile, logged_in
from hooke.tracking.tracker import MUTED, Tracker, logging_into


def read_by_pillow(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def why(tracker: Tracker) -> str:
    assert tracker.dropped.total is not None
    return tracker.dropped.total.why


SIDES = st.integers(1, 40)
SHAPES = st.one_of(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES, st.sampled_from([1, 3, 4])))


@pytest.mark.needs("cpu")
@given(SHAPES.flatmap(lambda shape: arrays(np.uint8, shape)))
def test_pixels_of_bytes_are_read_back_as_they_were(pixels):
    found = read_by_pillow(image_bytes(pixels))
    assert np.array_equal(found, pixels.reshape(found.shape))
    assert found.ndim == (3 if pixels.ndim == 3 and pixels.shape[2] > 1 else 2)


@pytest.mark.needs("cpu")
@given(SHAPES.flatmap(lambda shape: arrays(np.float32, shape, elements=st.floats(0, 1, width=32))))
def test_floats_become_the_nearest_byte(pixels):
    found = read_by_pillow(image_bytes(pixels)).reshape(pixels.shape)
    assert (np.abs(found - pixels.astype(float) * 255) <= 0.5001).all()


@pytest.mark.needs("cpu")
@given(arrays(np.bool_, st.tuples(SIDES, SIDES)))
def test_a_mask_is_black_and_white(mask):
    assert np.array_equal(read_by_pillow(image_bytes(mask)), np.where(mask, 255, 0))


def test_views_that_do_not_lie_in_one_piece():
    whole = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    for view in (whole[::2, ::-1], whole.transpose(1, 0, 2), whole[:, :, ::-1]):
        assert np.array_equal(read_by_pillow(image_bytes(view)), view)


@pytest.mark.needs("cpu")
def test_tensors_have_their_channels_first_and_may_have_a_gradient():
    torch = pytest.importorskip("torch")
    tensor = torch.rand(3, 5, 7, requires_grad=True)
    expected = np.rint(tensor.detach().numpy().transpose(1, 2, 0) * 255)
    assert np.array_equal(read_by_pillow(image_bytes(tensor)), expected)
    assert read_by_pillow(image_bytes(torch.zeros(1, 4, 6).bfloat16())).shape == (4, 6)
    assert read_by_pillow(image_bytes(torch.zeros(4, 6, dtype=torch.uint8))).shape == (4, 6)
    with pytest.raises(hooke.UsageError, match=r"the shape \(5, 7, 3\) .*\(1 or 3 or 4, height, width\)"):
        image_bytes(torch.zeros(5, 7, 3))


def test_images_of_pillow_and_files(tmp_path):
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    image = Image.fromarray(pixels)
    assert np.array_equal(read_by_pillow(image_bytes(image)), pixels)
    assert read_by_pillow(image_bytes(image.convert("CMYK"))).shape == (4, 4, 3)
    with pytest.raises(hooke.UsageError, match="PNG has no mode F"):
        image_bytes(image.convert("F"))
    image.save(tmp_path / "a.png", optimize=True)
    assert image_bytes(str(tmp_path / "a.png")) == (tmp_path / "a.png").read_bytes(), "as it is"
    turned = Image.Exif()
    turned[0x0112] = 6  # a camera held upright
    Image.new("RGB", (8, 4), "red").save(tmp_path / "a.jpg", exif=turned)
    assert read_by_pillow(image_bytes(tmp_path / "a.jpg")).shape == (8, 4, 3)


def test_a_file_that_only_pillow_reads_says_what_to_install(tmp_path, monkeypatch):
    Image.new("L", (2, 2)).save(tmp_path / "a.gif")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(hooke.MissingExtra, match="a.gif is not a PNG file") as missing:
        image_bytes(tmp_path / "a.gif")
    assert missing.value.fix == 'pip install "hooke-ml[plot]"'
    assert image_bytes(np.zeros((2, 2))), "arrays need no Pillow"


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.array([[0.5, math.nan], [math.nan, 1]]), "image 'x': 2 of 4 numbers in the image are NaN"),
        (np.array([[0.5, 255.0]]), "floats in an image are from 0 to 1, not from 0.5 to 255"),
        (np.array([[0.5, math.inf]]), "floats in an image are from 0 to 1, not from 0.5 to inf"),
        (np.zeros((2, 2), np.int64), "pixels are uint8, bool, or floats from 0 to 1, not int64"),
        (np.zeros((2, 2), complex), "pixels are uint8, bool, or floats from 0 to 1, not complex128"),
        (np.zeros((2, 2, 2)), "the shape (2, 2, 2) is not that of an image: (height, width) or"),
        (np.zeros(4), "the shape (4,) is not that of an image"),
        (np.zeros((1, 2, 2, 3)), "the shape (1, 2, 2, 3) is not that of an image"),
        (np.zeros((0, 2)), "the shape (0, 2) has no pixels"),
        ([[0.5]], "list is not an image: give an array, a tensor, an image of Pillow, or the path of a file"),
        ("nowhere.png", "image 'x': FileNotFoundError"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(tracker, caplog, image, said):
    hooke.log_image("x", image)
    assert said in why(tracker)
    assert said in caplog.text
    hooke.log_image("x", np.zeros((1, 1)))
    (kept,) = logged_in(tracker.folder).image("x")
    assert kept.step == 0, "what is refused takes no step"


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: hooke.log_image("", np.zeros((1, 1))), "image '': a name must be non-empty text"),
        (lambda: hooke.log_image("../x", np.zeros((1, 1))), "is not a relative path inside the run's"),
        (lambda: hooke.log_image("x", np.zeros((1, 1)), step=2**70), "has more than 64 bits"),
        (lambda: hooke.log_image("x", np.zeros((1, 1)), step=0.5), "cannot be interpreted as an integer"),
        (lambda: hooke.log_histogram("w", []), "histogram 'w': a histogram of no values"),
        (lambda: hooke.log_histogram("w", ["a"]), "a histogram is of numbers, not of <U1"),
        (lambda: hooke.log_histogram("w", [1 + 2j]), "a histogram is of numbers, not of complex128"),
        (lambda: hooke.log_histogram("w", [1], bins=0), "bins is 0, and not a number from 1 to 1000"),
        (
            lambda: hooke.log_histogram("w", [1], bins=10**6),
            "bins is 1000000, and not a number from 1 to 1000",
        ),
        (
            lambda: hooke.log_histogram("w", [1], bins=2.5),
            "histogram 'w': bins is 2.5, and not a number from 1 to 1000",
        ),
    ],
)
def test_other_wrong_arguments_are_refused_and_leave_no_file(tracker, call, said):
    call()
    assert said in why(tracker)
    assert not [each for each in tracker.folder.rglob("*") if each.suffix in {".png", ".json", ".part"}]


NUMBERS = arrays(
    st.sampled_from([np.float64, np.float32, np.float16, np.int64, np.uint8, np.bool_]),
    array_shapes(max_dims=3, max_side=12),
)


@pytest.mark.needs("cpu")
@given(NUMBERS, st.integers(1, 100))
@example(np.array([1.7e308, -1.7e308]), 64)
@example(np.array([np.finfo(float).max] * 2), 4)
@example(np.array([1e16, 1e16 + 2]), 64)
@example(np.array([5e-324, 0.0]), 3)
@example(np.array([math.nan, math.inf, -math.inf]), 3)
def test_each_value_is_counted_once_in_the_bin_where_it_lies(values, bins):
    import msgspec

    found = msgspec.json.decode(histogram_bytes(values, bins), type=HistogramFile)
    flat = [float(each) for each in values.ravel()]
    finite = [each for each in flat if math.isfinite(each)]
    assert found.nan == sum(map(math.isnan, flat))
    assert (found.negative_infinity, found.positive_infinity) == (flat.count(-math.inf), flat.count(math.inf))
    assert sum(found.counts) == len(finite)
    if not finite:
        assert found.edges == found.counts == []
        return
    assert len(found.edges) == len(found.counts) + 1 == bins + 1
    assert found.edges == sorted(found.edges)
    assert found.edges[0] <= min(finite) <= max(finite) <= found.edges[-1]
    for at, (low, high, count) in enumerate(
        zip(found.edges, found.edges[1:], found.counts, strict=False), start=1
    ):
        inside = [each for each in finite if low <= each < high or (at == bins and each == high)]
        assert count == len(inside)


def test_steps_count_apart_from_metrics_and_each_name_is_read_back_by_step(tracker):
    hooke.log_metric("x", 1)
    for shade in (0, 100, 200):
        hooke.log_image("x", np.full((2, 3), shade, np.uint8))
        hooke.log_histogram("x", [shade, shade, math.nan], bins=2)
    hooke.log_image("val/x", np.zeros((1, 1)), step=np.int64(-5))
    hooke.log_image("x", np.full((2, 3), 150, np.uint8), step=1)
    hooke.log_metric("x", 2)
    found = logged_in(tracker.folder)
    assert [point.step for point in found.metric("x")] == [0, 1]
    images = found.image("x")
    assert [(each.step, each.path, each.kind) for each in images] == [
        (step, f"images/x/{step}.png", "image") for step in range(3)
    ]
    shades = [read_by_pillow(each.file.read_bytes()).tolist() for each in images]
    assert shades == [[[shade] * 3] * 2 for shade in (0, 150, 200)], "of one name and step the last counts"
    assert [each.path for each in found.image("val/x")] == ["images/val/x/-5.png"]
    histograms = found.histogram("x")
    assert [(each.step, each.edges, each.counts, each.nan) for each in histograms] == [
        (step, [shade - 0.5, shade, shade + 0.5], [0, 2], 1) for step, shade in enumerate((0, 100, 200))
    ]
    assert len(found.artifacts) == 7
    hooke.log_artifact(images[0].file, "note.png")
    (note,) = [each for each in logged_in(tracker.folder).artifacts if each.path == "note.png"]
    assert note == Artifact("note.png", note.file, note.size, "", None, None)


def test_an_older_journal_has_files_without_a_kind(tracker):
    hooke.log_text("x", "x.txt")
    (event,) = [event for event in logged(tracker.folder) if isinstance(event, ArtifactLogged)]
    assert event.media is None


@pytest.mark.long
def test_muted_and_traced(tmp_path, tracker):
    with logging_into(MUTED):
        hooke.log_image("x", np.zeros((1, 1)))
        hooke.log_histogram("x", [1])
    assert not tracker.folder.exists()
    held = Tracker(tmp_path / "held", "driver", held=True)
    with logging_into(held):
        hooke.log_image("x", np.zeros((1, 1)))
    assert "image 'x': the run has no folder yet while the pipeline's body is traced" in why(held)


KILLED = """
    import os
    import numpy as np
    import hooke

    with hooke.start_run("training"):
        at = 0
        while True:
            hooke.log_image("sample", np.full((32, 32, 3), at % 256, np.uint8))
            hooke.log_histogram("weights", [at, at + 1], bins=2)
            os.write(1, b".")
            at += 1
"""


@pytest.mark.needs("processes")
def test_of_a_killed_program_everything_is_there_whose_call_returned(tmp_path):
    (tmp_path / "train.py").write_text(textwrap.dedent(KILLED))
    off = os.environ | {"HOOKE_SINKS": ""}
    running = subprocess.Popen([sys.executable, "train.py"], cwd=tmp_path, stdout=subprocess.PIPE, env=off)
    returned = 0
    while returned < 50:
        returned += len(os.read(running.stdout.fileno(), 4096))
    running.send_signal(signal.SIGKILL)
    returned += len(running.communicate()[0])
    runs = Project.find(tmp_path).runs
    found = logged_in(runs.folder(runs.find()))
    images, histograms = found.image("sample"), found.histogram("weights")
    assert returned <= len(histograms) <= len(images) <= returned + 1
    assert [each.step for each in images] == list(range(len(images)))
    for step, each in enumerate(images):
        assert (read_by_pillow(each.file.read_bytes()) == step % 256).all()
    assert [each.edges[0] for each in histograms] == list(range(len(histograms)))


@pytest.mark.needs("cpu")
def test_a_list_of_tensors_is_one_histogram(tracker):
    torch = pytest.importorskip("torch")
    weights = [torch.ones(2, 3, requires_grad=True), torch.zeros(4)]
    hooke.log_histogram("w", weights, bins=2)
    (found,) = logged_in(tracker.folder).histogram("w")
    assert found.counts == [4, 6]


@pytest.mark.needs("processes")
def test_a_retry_logs_in_the_place_of_the_attempt_before(workshop):
    workshop.write("""
        from pathlib import Path

        import hooke
        import numpy as np
        from hooke import pipeline, task

        HERE = Path(__file__).parent


        @task(retries=1, observe=False)
        def train() -> int:
            first = not (HERE / "begun").exists()
            (HERE / "begun").touch()
            for step in range(3) if first else range(1, 4):
                hooke.log_histogram("w", [step + 10 * first], step=step)
                hooke.log_image("a", np.zeros((1, 1)), step=step)
            if first:
                raise ValueError("once")
            return 1


        @pipeline
        def job() -> int:
            return train()
    """)
    found = workshop.run(name="job", on="local").logged()
    assert [(each.step, each.attempt) for each in found.image("a")] == [
        (0, found.image("a")[0].attempt),
        *((step, found.image("a")[-1].attempt) for step in (1, 2, 3)),
    ]
    assert found.image("a")[0].attempt != found.image("a")[-1].attempt
    assert [(each.edges[0] + each.edges[-1]) / 2 for each in found.histogram("w")] == [10, 1, 2, 3]
