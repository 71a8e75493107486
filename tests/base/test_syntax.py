"""Syntax trees: as `ast.parse` makes them, also where the interpreter lets threads disturb one another."""

import ast

import pytest

from hooke.base import syntax
from hooke.base.syntax import parse_python


def test_a_tree_is_that_of_the_standard_library():
    assert ast.dump(parse_python("x = 1\n")) == ast.dump(ast.parse("x = 1\n"))
    assert ast.dump(parse_python("[1, x]", "eval")) == ast.dump(ast.parse("[1, x]", mode="eval"))


@pytest.mark.parametrize(("source", "error"), [("x =", SyntaxError), ("x = '\0'", (SyntaxError, ValueError))])
def test_what_is_no_python_is_refused(source, error):
    with pytest.raises(error):
        parse_python(source)


class Disturbed:
    """`ast.parse` of Python 3.11.7 while another thread parses: the first tries fail."""

    def __init__(self, failures):
        self.failures = failures

    def parse(self, source):
        if self.failures:
            self.failures -= 1
            raise SystemError("AST constructor recursion depth mismatch (before=18, after=10)")
        return ast.parse(source)


def test_a_tree_that_another_thread_disturbed_is_made_again(monkeypatch):
    monkeypatch.setattr(syntax, "ast", Disturbed(3))
    assert ast.dump(parse_python("x = 1")) == ast.dump(ast.parse("x = 1"))


def test_an_interpreter_that_always_fails_is_not_asked_for_ever(monkeypatch):
    monkeypatch.setattr(syntax, "ast", Disturbed(10**9))
    with pytest.raises(SystemError, match="recursion depth"):
        parse_python("x = 1")
    assert syntax.ast.failures > 10**9 - 100
