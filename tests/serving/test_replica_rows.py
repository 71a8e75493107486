"""Methods that take rows: each caller gets its own back, exactly, and what is wrong with them is said."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.serving.answers import problem, wait_until
from tests.serving.services import Rows

from hooke import UsageError, service
from hooke.serving.payloads import methods_of
from hooke.serving.rows import group_of
from hooke.serving.service import service_of
from hooke.testing import client


@pytest.fixture(scope="module")
def rows():
    with client(Rows, scale=3.0) as made:
        yield made


class TestRows:
    """Batches: each caller gets its own rows, exactly."""

    integers = st.integers(-(2**53), 2**53)
    numbers = integers | st.floats(allow_nan=False, allow_infinity=False)
    flat = st.one_of(
        st.lists(st.lists(kind, min_size=2, max_size=2), min_size=1, max_size=12)
        for kind in (integers, numbers)
    )
    text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
    texts = st.lists(text, min_size=1, max_size=3)
    ragged = st.lists(
        st.lists(text | st.none() | st.booleans() | numbers, max_size=4), min_size=1, max_size=3
    )

    # the same test runs in a second class, whose models are processes
    @pytest.mark.needs("cpu")
    @settings(
        max_examples=25,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(arrays=st.lists(flat | texts, min_size=1, max_size=8), lists=st.lists(ragged, max_size=8))
    def test_exactly(self, rows, arrays, lists):
        """Arrays of whole numbers, fractions and text, lists of anything, requests larger than a batch: all at once."""
        asked = [("/same", {"rows": value}, np.array(value).tolist()) for value in arrays]
        asked += [
            ("/listed", {"rows": value, "mark": str(at % 2)}, [[row, str(at % 2)] for row in value])
            for at, value in enumerate(lists)
        ]
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda one: rows.post(one[0], one[1]), asked))
        for (_, _, expected), answer in zip(asked, answers, strict=True):
            assert answer.status == 200, answer.body
            assert repr(answer.json()) == repr(expected), "1 and 1.0 are not the same"

    def test_many_are_one_batch_and_only_the_guilty_one_is_told(self):
        with client(Rows) as made:
            model = made.service
            model.hold.clear()
            with ThreadPoolExecutor(9) as threads:
                first = threads.submit(made.post, "/predict", {"rows": [[1]]})
                wait_until(lambda: made.replica.dispatch.batcher.running is not None)
                others = [threads.submit(made.post, "/predict", {"rows": [[n]]}) for n in (1, 2, -1, 3, 4)]
                wait_until(lambda: made.replica.dispatch.batcher.waiting_rows == 5)
                model.hold.set()
                answers = [one.result() for one in others]
            assert first.result().json() == [2.0]
            assert [answer.status for answer in answers] == [200, 200, 500, 200, 200]
            assert [answer.json() for answer in answers if answer.status == 200] == [
                [2.0],
                [4.0],
                [6.0],
                [8.0],
            ]
            assert model.calls[:2] == [1, 5]
            assert "secret" not in answers[2].body.decode()

    def test_async_batches_and_a_fault_that_is_the_callers(self, rows):
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(lambda n: rows.post("/later", {"rows": [n, n]}), [1, 13, 2]))
        assert [answer.status for answer in answers] == [200, 422, 200]
        assert [answers[0].json(), answers[2].json()] == [[1, 1], [2, 2]]
        assert problem(answers[1])["detail"] == "13 is not served; take another"

    def test_code_that_is_cancelled_is_a_failed_request_and_not_the_end(self, rows, caplog):
        answer = rows.post("/cancels", {"rows": [13]})
        assert (answer.status, "CancelledError" in problem(answer)["detail"]) == (500, True)
        assert "cancels raised" in caplog.text
        assert rows.post("/cancels", {"rows": [1]}).json() == [1]

    def test_nobody_is_asked_with_the_secret_of_another(self):
        """As JSON they look alike, and must not go together all the same."""
        with client(Rows) as made, ThreadPoolExecutor(3) as threads:
            made.service.hold.clear()
            waiting = made.replica.dispatch.batcher

            def ask(row, key):
                return threads.submit(made.post, "/keyed", {"rows": [row], "who": {"key": key}})

            first = ask(0, "a")
            wait_until(lambda: waiting.running is not None)
            others = [ask(1, "b"), ask(2, "c")]
            wait_until(lambda: waiting.waiting_rows == 2)
            made.service.hold.set()
            assert [one.result().json() for one in (first, *others)] == [[[0, "a"]], [[1, "b"]], [[2, "c"]]]

    def test_a_default_that_no_json_is(self, rows):
        assert rows.post("/unset", {"rows": [2]}).json() == [2]
        assert rows.post("/unset", {"rows": [2], "way": 3}).json() == [6]

    @pytest.mark.needs("cpu")
    @settings(max_examples=50, deadline=None)
    @given(
        st.lists(
            st.none() | st.booleans() | st.sampled_from([1, 0]) | st.floats() | st.text(max_size=1),
            min_size=2,
            max_size=2,
        )
    )
    def test_values_that_a_method_can_tell_apart_are_of_two_groups(self, values):
        method = methods_of(service_of(Rows))["listed"]
        for one, other in (values, [[each] for each in values], [np.array([each]) for each in values]):
            groups = [group_of(method, {"rows": [1], "mark": value}) for value in (one, other)]
            if repr(one) != repr(other):
                assert groups[0] != groups[1]
            elif "nan" not in repr(one):
                assert groups[0] == groups[1]

    def test_rows_that_are_lost_or_are_no_rows(self, rows, caplog):
        assert rows.post("/lost", {"rows": [2, 4]}).json() == [2, 4]
        assert rows.post("/lost", {"rows": [1]}).status == 500
        assert "returned 0 rows for 1" in caplog.text
        assert rows.post("/pair", {"rows": [1, 2], "weights": [1, 2]}).status == 500
        assert "returned a tuple" in caplog.text

    def test_a_list_that_may_be_left_out_is_not_rows(self, rows):
        assert rows.post("/optional", {"rows": [1]}).json() == [[1, None]]
        assert rows.post("/optional", {"rows": [1], "weights": [2, 3]}).json() == [[1, [2, 3]]]

    def test_too_deep(self, rows):
        deep = b'{"rows": ' + b"[" * 100_000
        answer = rows.request("POST", "/same", body=deep, headers={"content-type": "application/json"})
        assert (answer.status, problem(answer)["detail"]) == (400, "the body is nested too deeply")
        forty = b'{"rows": ' + b"[" * 70 + b"1" + b"]" * 70 + b"}"
        answer = rows.request("POST", "/same", body=forty, headers={"content-type": "application/json"})
        assert answer.status == 422, "NumPy has 64 dimensions at most"

    @pytest.mark.parametrize(
        ("path", "value", "field", "said"),
        [
            ("/predict", {}, "rows", "missing"),
            ("/predict", {"rows": [[1]], "raws": 1}, "raws", "unknown field"),
            ("/predict", {"rows": 3}, "rows", "Expected `array`, got a number"),
            ("/predict", {"rows": []}, "rows", "no rows"),
            ("/predict", {"rows": [[1, 2], [3]]}, "rows", "rows of equal length"),
            ("/predict", {"rows": [["1"]]}, "rows", "Expected numbers"),
            ("/predict", {"rows": [[1, "1"]]}, "rows", "only numbers, only booleans, or only text"),
            ("/predict", {"rows": [[1, None]]}, "rows", "only numbers, only booleans, or only text"),
            ("/same", {"rows": ["a\0"]}, "rows", "only numbers, only booleans, or only text"),
            ("/listed", {"rows": [1], "mark": 3}, "mark", "Expected `str`, got `int`"),
            ("/optional", {"rows": []}, "rows", "no rows"),
            ("/pair", {"rows": [1, 2], "weights": [1]}, "weights", "1 rows, and rows has 2"),
        ],
    )
    def test_what_does_not_fit_names_the_field(self, rows, path, value, field, said):
        answer = rows.post(path, value)
        assert answer.status == 422
        (fault,) = problem(answer)["errors"]
        assert fault["field"] == field
        assert said in fault["detail"]


@service(max_batch=8, timeout="5s")
class Weights:
    """Three weights; an odd row fails for another reason than its width."""

    def setup(self):
        self.weights = np.array([1.0, 2.0, 3.0])

    def predict(self, rows: NDArray[np.float64]) -> np.ndarray:
        if (rows == 13).any():
            raise ValueError("shape of things: 3")
        return rows @ self.weights

    def listed(self, rows: list[list[float]]) -> list:
        return [row[0] + row[1] + row[2] for row in rows]

    async def later(self, rows: NDArray[np.float64]) -> np.ndarray:
        return rows @ self.weights

    def any_width(self, rows: NDArray[np.float64]) -> np.ndarray:
        if (rows == 13).any():
            raise ValueError("no")
        return rows.sum(axis=1)

    def fewer(self, rows: NDArray[np.float64]) -> np.ndarray:
        return rows[: -rows.shape[1] % 3]

    def refuses(self, rows: NDArray[np.float64]) -> np.ndarray:
        if rows.shape[1] != 3:
            raise UsageError("give three", fix="see the model")
        return rows


@service(timeout="5s")
class Alone(Weights):
    """Each call for one request."""

    listed = None


@service(max_batch=8, timeout="5s", model="process")
class WeightsApart(Weights):
    """In a process of its own."""

    later = None


class TestWidths:
    """A row of the wrong width is the caller's fault, although the method raises."""

    @pytest.mark.needs("cpu")
    @pytest.mark.parametrize("kind", [Weights, Alone, WeightsApart])
    @pytest.mark.parametrize("first", [True, False])
    @pytest.mark.parametrize(
        ("row", "shown"), [([1.0, 2.0], "2 values"), ([1.0] * 5, "5 values"), (1.0, "a single value")]
    )
    def test_a_row_of_the_wrong_width(self, kind, first, row, shown):
        paths = ["/predict"] if kind is WeightsApart else ["/predict", "/later"]
        with client(kind) as made:
            for path in paths:
                if not first:
                    assert made.post(path, {"rows": [[1, 1, 1]]}).json() == [6.0]
                elif kind is Alone and row == 1.0:
                    continue  # of a single number nothing is known
                answer = made.post(path, {"rows": [row]})
                if kind is Alone and row == 1.0:
                    assert answer.status == 500
                    continue
                assert (answer.status, path) == (422, path)
                (fault,) = problem(answer)["errors"]
                assert fault["field"] == "rows"
                assert shown in fault["detail"]
                assert made.post(path, {"rows": [[1, 1, 1]]}).json() == [6.0]

    def test_lists_of_rows(self):
        with client(Weights) as made:
            assert made.post("/listed", {"rows": [[1, 1, 1]]}).json() == [3.0]
            answer = made.post("/listed", {"rows": [[1, 1]]})
            assert answer.status == 422
            assert "a row is 2 values, and listed takes rows of 3 values" in problem(answer)["detail"]
            window = made.replica.dispatch.windows.take(made.replica.dispatch._loop.time())
        # Its client is wrong, and it is answered: the service has not failed.
        assert (window.arrived, window.requests, window.failed) == (2, 2, 0)

    def test_its_companions_are_answered(self):
        with client(Weights) as made, ThreadPoolExecutor(4) as threads:
            rows = [[1, 1, 1], [1, 1], [2, 2, 2], [1]]
            answers = list(threads.map(lambda row: made.post("/predict", {"rows": [row]}), rows))
            assert [answer.status for answer in answers] == [200, 422, 200, 422]

    def test_what_fails_for_another_reason_stays_a_fault_of_the_service(self):
        with client(Weights) as made:
            assert made.post("/predict", {"rows": [[1, 1, 1]]}).status == 200
            assert made.post("/predict", {"rows": [[13, 1, 1]]}).status == 500, "of the right width"
            for width in (2, 3):
                assert made.post("/any_width", {"rows": [[1] * width]}).status == 200
            assert made.post("/any_width", {"rows": [[13] * 4]}).status == 500, "it takes any width"
            assert made.post("/fewer", {"rows": [[1, 1]]}).status == 200
            assert made.post("/fewer", {"rows": [[1, 1, 1]]}).status == 500, "rows are missing"
            assert made.post("/refuses", {"rows": [[1, 1, 1]]}).status == 200
            answer = made.post("/refuses", {"rows": [[1]]})
            assert (answer.status, problem(answer)["detail"]) == (422, "give three; see the model")
