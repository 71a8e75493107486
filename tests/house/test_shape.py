"""How the code is laid out: sizes, charters, public names, words that must not be there."""

import ast
import importlib.metadata
import re
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.needs import skip_without

import hooke
import hooke.testing
from hooke.base.distributions import DISTRIBUTION, HOOKE_VERSION

FUNCTION_LINES = 50
MODULES_IN_A_FOLDER = 25
SHARE_OF_A_FOLDER = 1 / 8
FORBIDDEN_FILES = {"utils.py", "util.py", "helpers.py", "helper.py", "common.py", "manager.py", "misc.py"}
PRIVATE = re.compile(
    r"/(?:root|work)/\w"  # a path of somebody's machine
    r"|pypi\.[o]rg|pythonhosted\.[o]rg|registry\.[n]pmjs|deb\.[d]ebian\.org|download\.[p]ytorch"
)


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its decorators and docstring."""
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def test_folders_can_be_read_at_a_glance(sources: list[Path], root: Path) -> None:
    """No folder has more modules beside one another, or more of all lines, than a reader takes in."""
    modules = Counter(path.parent.relative_to(root) for path in sources)
    crowded = {str(folder): n for folder, n in modules.items() if n > MODULES_IN_A_FOLDER}
    assert not crowded, f"folders of more than {MODULES_IN_A_FOLDER} modules: {crowded}"
    lines = Counter()
    for path in sources:
        lines[path.relative_to(root / "src" / "hooke").parts[0]] += len(path.read_text("utf-8").splitlines())
    most = SHARE_OF_A_FOLDER * lines.total()
    assert not {name: n for name, n in lines.items() if n > most}


@pytest.mark.needs("cpu")
def test_a_name_stands_for_one_class(trees: dict[Path, ast.Module], root: Path) -> None:
    """Who searches for a public class finds one."""
    places: dict[str, list[str]] = {}
    for path, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path.relative_to(root)))
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_no_folder_hides_a_public_name(root: Path) -> None:
    """Importing `hooke.x` sets the attribute `x` of the package: a function of that name would be gone.

    `pipeline` may: `hooke/__init__.py` binds the function after the folder was imported.
    """
    names = {path.stem for path in (root / "src" / "hooke").iterdir()} - {"pipeline"}
    assert not names & set(hooke.__all__)


def test_the_architecture_page_lists_every_folder(root: Path) -> None:
    """ARCHITECTURE.md and the contract of import-linter draw the same floors, with every folder on one of them."""
    page = (root / "ARCHITECTURE.md").read_text("utf-8")
    drawn = [re.findall(r"([a-z]+)/", line) for line in page.split("```text")[1].split("```")[0].splitlines()]
    contracts = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    floors = [re.findall(r"[a-z]+", layer) for layer in contracts[0]["layers"]]
    floor_of = {folder: number for number, floor in enumerate(floors) for folder in floor}
    folders = {path.name for path in (root / "src" / "hooke").iterdir() if (path / "__init__.py").exists()}
    assert set(floor_of) == folders
    order = [floor_of[name] for line in drawn for name in line[:1] if name in floor_of]
    assert {name for line in drawn for name in line[:1]} >= folders, "a folder is missing in ARCHITECTURE.md"
    assert order == sorted(order), "ARCHITECTURE.md draws the folders in another order than the contract"


@pytest.mark.needs("cpu")
def test_a_module_binds_a_constant_once(trees: dict[Path, ast.Module], root: Path) -> None:
    """A second one of the same name, as a merge may leave, changes what the first one's users read."""
    twice: list[str] = []
    for path, tree in trees.items():
        bound = [
            name.id
            for statement in tree.body
            if isinstance(statement, ast.Assign)
            for target in statement.targets
            for name in ast.walk(target)
            if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
        ]
        twice += [f"{path.relative_to(root)}: {name}" for name in bound if bound.count(name) > 1]
    assert not twice


@pytest.mark.needs("cpu")
def test_functions_fit_a_screen(nodes: dict[Path, list[ast.AST]], root: Path) -> None:
    long = [
        f"{path.relative_to(root)}:{node.lineno} {node.name}: {body_lines(node)} lines"
        for path, all_nodes in nodes.items()
        for node in all_nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and body_lines(node) >= FUNCTION_LINES
    ]
    assert not long, f"functions of {FUNCTION_LINES} lines or more:\n" + "\n".join(long)


def test_files_bear_the_users_nouns(sources: list[Path]) -> None:
    assert not [str(path) for path in sources if path.name in FORBIDDEN_FILES]


def test_every_package_has_a_charter(root: Path) -> None:
    """What it does, what it does not know, what it may import."""
    for folder in sorted(path for path in (root / "src" / "hooke").iterdir() if path.is_dir()):
        if folder.name == "__pycache__":
            continue
        init = folder / "__init__.py"
        assert init.exists(), f"{folder.name} has no __init__.py, so no charter"
        charter = ast.get_docstring(ast.parse(init.read_text("utf-8"))) or ""
        assert "nows nothing" in charter or "knows no" in charter, (
            f"{init}: say what {folder.name} does not know"
        )
        assert "mports" in charter, f"{init}: say what {folder.name} may import"


@pytest.mark.needs("cpu")
def test_every_module_names_what_is_public(trees: dict[Path, ast.Module], root: Path) -> None:
    def has_all(tree: ast.Module) -> bool:
        defines = any(
            isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            for node in tree.body
        )
        return not defines or any(
            isinstance(target, ast.Name) and target.id == "__all__"
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
        )

    missing = [str(path.relative_to(root)) for path, tree in trees.items() if not has_all(tree)]
    assert not missing, f"public functions or classes, but no __all__: {missing}"


@pytest.mark.needs("cpu")
def test_nothing_imports_the_root_package(nodes: dict[Path, list[ast.AST]], root: Path) -> None:
    """`import hooke` is lazy for users; inside, each name is imported from where it is made."""

    def imports_root(node: ast.stmt) -> bool:
        if isinstance(node, ast.ImportFrom):
            return node.module == "hooke" and node.level == 0
        return isinstance(node, ast.Import) and any(alias.name == "hooke" for alias in node.names)

    guilty = [
        f"{path.relative_to(root)}:{node.lineno}"
        for path, all_nodes in nodes.items()
        for node in all_nodes
        if isinstance(node, ast.stmt) and imports_root(node)
    ]
    assert not guilty


def tracked_texts(root: Path) -> Iterator[tuple[str, str]]:
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        skip_without("git")
    for name in filter(None, listed.decode().split("\0")):
        path = root / name
        if path.is_file() and path.stat().st_size < 1 << 20:
            yield name, path.read_bytes().decode("utf-8", "replace")


@pytest.mark.needs("cpu")
def test_no_file_names_a_machine_or_a_registry(root: Path) -> None:
    found = [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()}"
        for name, text in tracked_texts(root)
        for match in PRIVATE.finditer(text)
    ]
    assert not found, "paths of one machine, or download addresses:\n" + "\n".join(found)


INSTALLED = re.compile(r"""pip3? install [^\n`;{]*?["' ]hooke(?!-ml)(?![\w.-])|\bhooke\[[a-z]""")
"""A command that would install another project: `hooke` is its name in the index."""


@pytest.mark.needs("cpu")
def test_every_command_installs_this_project(root: Path, nodes: dict[Path, list[ast.AST]]) -> None:
    found = [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()}"
        for name, text in tracked_texts(root)
        if name != "tests/house/test_shape.py"
        for match in INSTALLED.finditer(text)
    ]
    assert not found, "the distribution is hooke-ml:\n" + "\n".join(found)
    texts = {
        str(path.relative_to(root)): node.value
        for path, all_nodes in nodes.items()
        for node in all_nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and DISTRIBUTION in node.value
    }
    assert set(texts) == {"src/hooke/base/distributions.py"}, "install_command() makes these commands"


def test_there_is_one_version(root: Path) -> None:
    """The build's, the command's and the code's."""
    declared = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    assert declared["project"]["name"] == DISTRIBUTION
    assert declared["project"]["dynamic"] == ["version"]
    assert hooke.__version__ == HOOKE_VERSION == importlib.metadata.version(DISTRIBUTION)


def test_every_public_name_is_documented(root: Path) -> None:
    reference = "\n".join(page.read_text("utf-8") for page in (root / "docs" / "reference").glob("*.md"))
    documented = set(re.findall(r"^\.\. auto\w+:: ([\w.]+)", reference, re.MULTILINE))
    public = {f"hooke.{name}" for name in hooke.__all__}
    assert not public - documented, f"not in docs/reference: {sorted(public - documented)}"


def test_the_shipped_suites_are_documented(root: Path) -> None:
    reference = "\n".join(page.read_text("utf-8") for page in (root / "docs" / "reference").glob("*.md"))
    missing = [name for name in hooke.testing.__all__ if f"hooke.testing.{name}" not in reference]
    assert not missing, f"not in docs/reference: {missing}"
