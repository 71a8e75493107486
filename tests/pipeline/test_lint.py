"""The body's lint: finds what no promise can catch, names line and fix, and leaves plain values alone."""

import ast
import inspect
import itertools
import re
import runpy
import textwrap
import types

import pytest

from hooke import TraceError, pipeline, task
from hooke.pipeline.lint import lint, read_body, source_of
from hooke.pipeline.trace import trace


@task
def fit(rows=None, depth=1, key=None):
    return rows


@task
def split(rows=None) -> tuple[list, list]:
    return [], []


SHAPES = '''
def plain(a):
    return a
    # a comment at the end

def brackets(
    a,
):
    b = [
1,
    ]
    return b
def text(a):
    b = """
def not_one():
"""
    return b

def continued(a):
    return a + \\
1

def comments(a):
# at the margin

    return a  # 1
\x0c
def paged(a):
    b = a
\x0c
    return b

def marked(*words):
    return lambda function: function

@marked(
    "def no():",
)
@marked("""
def no():
    pass
""")
def decorated(a):
    if a:
        return 1

    return 2

def short(a): return a
class Inner:
    @marked()
    def method(self):

        return self
async def waiting(a):
    return a

def outer():
    def inner(a):
        return a
    return inner
'''


class Model:
    @task
    def predict(self, row):
        return row

    @staticmethod
    @task
    def plain(row):
        return row


@pipeline
def other(rows=None):
    return fit(rows)


def helper(value):
    return value


LIMIT = 3
alias = types.SimpleNamespace(fit=fit)


def findings(body):
    """The findings in a body given as text; it is not run."""
    lines = "".join(f"    {line}\n" for line in body.strip("\n").splitlines())
    source = f"def flow(rows=None, depth=1, flag=True):\n{lines}"
    space = dict(globals())
    exec(compile(source, "flow.py", "exec"), space)
    return read_body(space["flow"], source)


FOUND = {
    "is None": "m = fit(rows)\nif m is None:\n    return 1",
    "is not None": "m = fit(rows)\nreturn 1 if m is not None else 2",
    "None is": "m = fit(rows)\nassert None is m",
    "the call itself": "assert fit(rows) is None",
    "in a chain": "m = fit(rows)\nreturn rows is depth is m",
    "in a loop": "for row in rows:\n    m = fit(row)\n    if m is None:\n        continue",
    "an item": "for m in fit.map(rows):\n    assert m is not None",
    "an item of a list": "ms = [fit(r) for r in rows]\nassert ms[0] is not None",
    "an item of a list display": "ms = [fit(1), fit(2)]\nfor m in ms:\n    m is None",
    "a slice's item": "ms = fit.map(rows)\nfor m in ms[1:]:\n    m is None",
    "an enumerated item": "for i, m in enumerate(fit.map(rows)):\n    m is None",
    "a zipped item": "for r, m in zip(rows, fit.map(rows)):\n    m is None",
    "in a comprehension": "return [m for m in fit.map(rows) if m is not None]",
    "in a generator": "return list(m is None for m in fit.map(rows))",
    "in a dict comprehension": "return {i: m is None for i, m in enumerate(fit.map(rows))}",
    "unpacked": "a, b = split(rows)\nreturn b is None",
    "unpacked with a star": "a, *b = fit.map(rows)\nfor c in b:\n    c is None",
    "swapped": "a, b = fit(1), fit(2)\na, b = b, a\na is None",
    "a part": "m = fit(rows)['model']\nm is None",
    "annotated": "m: object = fit(rows)\nm is None",
    "a walrus": "if (m := fit(rows)) is None:\n    return 1",
    "after a walrus": "if (m := fit(rows)):\n    return m is None",
    "either way": "m = fit(1) if flag else fit(2)\nm is None",
    "on both branches": "if flag:\n    m = fit(1)\nelse:\n    m = fit(2)\nm is None",
    "on the branch that goes on": "if flag:\n    m = fit(1)\nelse:\n    return 1\nm is None",
    "after a try": "try:\n    x = helper(1)\nfinally:\n    m = fit(1)\nm is None",
    "in with": "with open('a') as file:\n    m = fit(1)\nm is None",
    "in while": "while flag:\n    m = fit(1)\n    m is None",
    "in match": "m = fit(1)\nmatch depth:\n    case 1:\n        m is None",
    "a method": "Model.predict(rows, 1) is None",
    "a static method": "Model.plain(1) is None",
    "through a namespace": "alias.fit(1) is None",
    "isinstance": "m = fit(rows)\nassert isinstance(m, list)",
    "isinstance of a map": "m = fit.map(rows)\nassert isinstance(m, list)",
    "type": "m = fit(rows)\nreturn type(m) == list",
    "id": "return id(fit(rows))",
    "callable": "m = fit(rows)\nreturn callable(m)",
    "hasattr": "m = fit(rows)\nreturn hasattr(m, 'predict')",
    "getattr": "m = fit(rows)\nreturn getattr(m, 'predict', None)",
    "a match on it": "m = fit(rows)\nmatch m:\n    case None:\n        return 1",
    "try except": "try:\n    m = fit(rows)\nexcept ValueError:\n    m = None",
    "try except with other calls": "try:\n    x = helper(1)\n    return fit.map([x])\nexcept Exception:\n    pass",
    "try except star": "try:\n    fit(1)\nexcept* ValueError:\n    pass",
    "try except deep": "try:\n    if flag:\n        return [fit(r) for r in rows]\nexcept ValueError:\n    pass",
    "set item": "m = fit(rows)\nm[0] = 1",
    "set item of a map": "m = fit.map(rows)\nm[0] = 1",
    "add to an item": "m = fit(rows)\nm['a'] += 1",
    "delete an item": "m = fit(rows)\ndel m[0]",
    "set an attribute": "m = fit(rows)\nm.depth = 3",
    "set a part's item": "m = fit(rows)\nm['a']['b'] = 1",
    "a lambda": "m = fit(rows)\nreturn fit(rows, key=lambda r: r + m)",
    "a lambda by position": "m = fit(rows)\nreturn fit(lambda: m)",
    "a lambda in a map": "m = fit(rows)\nreturn fit.map(rows, key=lambda r: m)",
    "a function": "m = fit(rows)\ndef key(r):\n    return r + m\nreturn fit(rows, key=key)",
    "a lambda with a list": "ms = [fit(r) for r in rows]\nreturn fit(key=lambda: ms)",
    "global": "global LIMIT\nLIMIT = 4",
}


@pytest.mark.parametrize("body", FOUND.values(), ids=FOUND.keys())
def test_found_once(body):
    (finding,) = findings(body)
    assert finding.why
    assert finding.fix
    assert 2 <= finding.line <= 2 + body.count("\n")


PASSED = {
    "a parameter": "if rows is None:\n    rows = 1\nreturn fit(rows)",
    "isinstance of a parameter": "assert isinstance(rows, list)\nreturn fit(rows)",
    "a helper's result": "x = helper(1)\nreturn x is None",
    "another pipeline's result": "x = other(rows)\nreturn x is None",
    "an unknown method": "x = rows.fit(1)\nreturn x is None",
    "assigned on one way only": "m = None\nif flag:\n    m = fit(1)\nif m is not None:\n    fit(m)",
    "assigned in a loop that may not run": "m = None\nfor r in rows:\n    m = fit(r, m)\nreturn m is None",
    "first none, then a result, around a loop": "m = None\nfor r in rows:\n    if m is None:\n        m = fit(r)\n    fit(r, m)",
    "while": "m = None\nwhile flag:\n    if m is None:\n        m = fit(1)",
    "bound again": "m = fit(1)\nm = helper(1)\nm is None",
    "bound again in a loop": "m = fit(1)\nfor m in rows:\n    m is None",
    "bound again by with": "m = fit(1)\nwith open('a') as m:\n    m is None",
    "bound again by def": "m = fit(1)\ndef m():\n    return 1\nm is None",
    "added to": "m = 1\nm += 2\nm is None",
    "the list of a map": "ms = fit.map(rows)\nms is None",
    "a plain list of results": "ms = [fit(r) for r in rows]\nassert isinstance(ms, list)\nms[0] = fit(2)\nms is None",
    "a mixed list": "ms = [fit(1), None]\nfor m in ms:\n    if m is not None:\n        fit(m)",
    "a dict of results": "ms = {'a': fit(1)}\nms['b'] = fit(2)\nms.get('c') is None",
    "the other part of zip": "for r, m in zip(rows, fit.map(rows)):\n    r is None",
    "the number of enumerate": "for i, m in enumerate(fit.map(rows)):\n    i is None",
    "a comprehension's own name": "m = fit(1)\nreturn [m for m in rows if m is None]",
    "a name that shadows the task": "fit = helper\nm = fit(1)\nm is None",
    "a name that shadows isinstance": "isinstance = helper\nisinstance(fit(1))",
    "equality of names": "m = fit(1)\nreturn fit(m, depth=depth == 1)",
    "try finally": "try:\n    return fit(1)\nfinally:\n    helper(1)",
    "try with the task in else": "try:\n    x = helper(1)\nexcept ValueError:\n    x = 2\nelse:\n    fit(1)\nreturn fit(x)",
    "try with the task in the handler": "try:\n    x = helper(1)\nexcept ValueError:\n    x = fit(1)\nreturn x is None",
    "try in a function": "try:\n    key = lambda: fit(1)\nexcept ValueError:\n    pass",
    "a lambda that captures values": "return fit(rows, key=lambda r: r + depth)",
    "a lambda's own parameter": "m = fit(1)\nreturn fit(rows, key=lambda m: m)",
    "a lambda for a plain function": "m = fit(1)\nreturn helper(lambda: m)",
    "a function that binds the name": "m = fit(1)\ndef key(r):\n    m = r\n    return m\nreturn fit(rows, key=key)",
    "sorting results by plain keys": "ms = [fit(r) for r in rows]\nreturn sorted(zip(rows, ms), key=lambda pair: pair[0])",
    "repr": "m = fit(1)\nreturn fit(repr(m) is None)",
    "a name given later": "def inner():\n    return late\nlate = fit(1)\nreturn late",
    "match on a parameter": "match depth:\n    case 1:\n        return fit(1)\n    case _:\n        return fit(2)",
    "deleted name": "m = fit(1)\ndel m",
    "raise": "if flag:\n    raise ValueError\nreturn fit(1)",
    "break and continue": "for r in rows:\n    if r:\n        break\n    else:\n        continue\nreturn fit(1)",
    "empty": "pass",
    "a docstring": '"""Only this."""',
    "nested class": "class Inner:\n    x = 1\nreturn fit(Inner.x)",
}


@pytest.mark.parametrize("body", PASSED.values(), ids=PASSED.keys())
def test_no_false_alarm(body):
    assert findings(body) == []


def test_several_are_sorted_by_line():
    found = findings("m = fit(1)\nassert m is None\nx = [\n    type(m),\n    id(m),\n]\nglobal LIMIT")
    assert [f.line for f in found] == [3, 5, 6, 8]


def test_captures_name_each_variable():
    found = findings("a, b = fit(1), fit(2)\nreturn fit(key=lambda: (a, b, rows))")
    assert [re.search(r"captures '(\w)'", f.what).group(1) for f in found] == ["a", "b"]


class TestMessages:
    def test_the_whole_screen(self):
        @pipeline
        def flow(rows=None):
            model = fit(rows)
            if model is None:
                return 1
            return type(model)

        with pytest.raises(TraceError) as caught:
            trace(flow)
        first = flow.function.__code__.co_firstlineno
        file = caught.value.where.split(":")[0]
        assert file.endswith("test_lint.py")
        assert str(caught.value) == (
            "pipeline 'flow' tests `model is None` on a task's result, which does not exist yet\n"
            f"  where: {file}:{first + 3}: if model is None:\n"
            "  why: `is` compares the promise that stands for `model`, so the answer is always the same; "
            f"also {file}:{first + 5}: it calls type() on a task's result, which does not exist yet\n"
            "  fix: test it inside the task that uses it"
        )

    @pytest.mark.parametrize(
        ("body", "what", "fix"),
        [
            (FOUND["isinstance"], "calls isinstance() on a task's result", "call it inside the task"),
            (FOUND["a match on it"], "matches a task's result", "put the `match` inside a task"),
            (FOUND["try except"], "calls task 'fit' inside try/except", "(into its `else:`)"),
            (
                FOUND["set item"],
                "changes a task's result, which does not exist yet: `m[0]`",
                "return the changed value",
            ),
            (FOUND["a function"], "hands task 'fit' a function that captures 'm'", "pass 'm' to the task"),
            (FOUND["global"], "declares `global LIMIT`", "pass the value to the tasks"),
        ],
        ids=range(6),
    )
    def test_each_rule(self, body, what, fix):
        (finding,) = findings(body)
        assert what in finding.what
        assert fix in finding.fix

    def test_long_expressions_are_not_repeated(self):
        (finding,) = findings("fit({'a': [rows, rows, rows, rows], 'b': [depth, depth]}) is None")
        assert "stands for it, so the answer" in finding.why


class TestWhenItReads:
    def test_nothing_of_the_body_runs_before(self):
        ran = []

        @pipeline
        def flow():
            ran.append(1)
            return fit(1) is None

        with pytest.raises(TraceError):
            trace(flow)
        assert ran == []

    def test_plain_calls_are_not_linted(self):
        @pipeline
        def flow():
            return fit(1) is None

        assert flow() is False

    def test_inlined_pipelines_are_linted(self):
        @pipeline
        def inner():
            return fit(1) is None

        @pipeline
        def outer():
            return inner()

        with pytest.raises(TraceError, match="pipeline 'inner' tests"):
            trace(outer)

    def test_under_other_decorators(self):
        def noted(function):
            import functools

            @functools.wraps(function)
            def wrapper(*args):
                return function(*args)

            return wrapper

        @pipeline
        @noted
        def flow():
            return fit(1) is None

        with pytest.raises(TraceError, match="tests `fit"):
            trace(flow)

    def test_closures_are_known(self):
        inner = task(name="inner")(lambda: 1)

        @pipeline
        def flow():
            return inner() is None

        with pytest.raises(TraceError):
            trace(flow)

    def test_bodies_without_source_are_passed_over(self):
        space = {"fit": fit}
        exec("def flow():\n    return fit(1) is None", space)
        lint(pipeline(space["flow"]))
        lint(pipeline(name="flow")(lambda: fit(1) is None))
        lint(pipeline(name="partial")(itertools.chain))

    @pytest.mark.parametrize("source", ["", "x = (", "x = 1", "lambda: 1\n"])
    def test_source_that_is_no_function(self, source):
        assert read_body((lambda: 1), source) == []

    def test_source_is_found_as_by_inspect(self, tmp_path):
        (tmp_path / "shapes.py").write_text(SHAPES)
        space = runpy.run_path(str(tmp_path / "shapes.py"))
        functions = [each for each in space.values() if isinstance(each, types.FunctionType)]
        functions += [space["Inner"].method, space["outer"]()]
        assert len(functions) == 13
        for function in functions:
            (lines, start), (others, expected) = source_of(function), inspect.getsourcelines(function)
            assert start == expected
            found, right = (
                ast.dump(ast.parse(textwrap.dedent("".join(each))), include_attributes=True)
                for each in (lines, others)
            )
            assert found == right, function

    def test_a_name_that_has_no_value_yet(self):
        @pipeline
        def flow():
            return later() is None

        lint(flow)
        later = task(name="later")(lambda: 1)
        with pytest.raises(TraceError):
            lint(flow)
