"""What comes into an image, and what is refused."""

import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.images.conftest import small_base
from tests.images.test_layout import files_of

from hooke.base.distributions import normal_name
from hooke.base.errors import MissingExtra, UsageError
from hooke.images import requirements
from hooke.images.contents import (
    MINOR,
    build,
    debian_base,
    dockerfile,
    packages_of,
    project_files,
)
from hooke.images.layout import ImageLayout
from hooke.images.requirements import wanted_packages

JOB = """
from hooke import pipeline, task

@task
def twice(x: int) -> int:
    return 2 * x

@pipeline
def job() -> int:
    return twice(21)
"""
SITE = f"opt/venv/lib/python{MINOR}/site-packages"


def paths(found):
    return [each.path for each in found]


class TestProject:
    def test_in_a_repository_what_git_does_not_ignore(self, project):
        subprocess.run(["git", "init", "-q", project], check=True)
        (project / ".gitignore").write_text("data/\n.env\n")
        (project / "data").mkdir()
        (project / "data/big.csv").write_text("1")
        (project / ".env").write_text("TOKEN=1")
        (project / ".hooke").mkdir()
        (project / ".hooke/journal").write_text("1")
        subprocess.run(["git", "-C", project, "add", "job.py"], check=True)
        (project / "gone.py").write_text("")
        subprocess.run(["git", "-C", project, "add", "gone.py"], check=True)
        (project / "gone.py").unlink()
        (project / "new.py").write_text("")
        assert paths(project_files(project)) == ["app/.gitignore", "app/job.py", "app/new.py"]

    def test_elsewhere_neither_hidden_files_nor_environments(self, project, monkeypatch):
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(project.parent))
        for name in (
            ".env",
            ".hooke/x",
            "venv/pyvenv.cfg",
            "venv/lib/y.py",
            "__pycache__/job.pyc",
            "sub/z.py",
        ):
            (project / name).parent.mkdir(exist_ok=True, parents=True)
            (project / name).write_text("")
        assert paths(project_files(project)) == ["app/job.py", "app/sub/z.py"]

    def test_an_empty_one_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        with pytest.raises(UsageError, match="has no files for the image"):
            project_files(tmp_path)


class TestPackages:
    @pytest.mark.needs("cpu")
    def test_hooke_and_what_it_requires_come_by_themselves(self):
        names = {each.name.lower() for each in wanted_packages([])}
        assert {"hooke-ml", "numpy", "msgspec", "click"} <= names
        assert "torch" not in names, "that is an extra's"

    @pytest.mark.needs("cpu")
    def test_extras_bring_what_they_require(self):
        plain, more = (
            {normal_name(each.name) for each in wanted_packages(asked)}
            for asked in ([], ["Hooke_ML[dask]", "scikit-learn>=1.0"])
        )
        assert "distributed" not in plain
        assert {"distributed", "cryptography", "tornado", "scikit-learn", "joblib"} <= more

    @pytest.mark.needs("cpu")
    def test_what_pages_type_can_be_taken(self):
        pages = (Path(__file__).parents[2] / "docs").rglob("*.md")
        lines = [line for page in pages for line in page.read_text("utf-8").splitlines()]
        typed = [shlex.split(line) for line in lines if line.startswith("$ hooke image build")]
        asked = {words[at + 1] for words in typed for at, word in enumerate(words) if word == "--with"}
        assert "hooke-ml[dask]" in asked
        assert wanted_packages(asked)

    @pytest.fixture
    def few(self, monkeypatch):
        """To read the metadata of all packages takes a second."""
        here = [distribution(name) for name in ("hooke-ml", "click", "msgspec", "numpy")]
        monkeypatch.setattr(requirements, "distributions", lambda: here)

    @pytest.mark.parametrize(
        ("asked", "what", "fix"),
        [
            ("No_such.thing", "No_such.thing is not installed here", "-m pip install No_such.thing"),
            ("numpy==1.0", r"--with numpy==1.0: numpy \S+ is installed here", "-m pip install numpy==1.0"),
            ("numpy<1.0", "--with numpy<1.0: numpy", "-m pip install 'numpy<1.0'"),
            ("hooke-ml[dusk]", "hooke-ml has no extra 'dusk'", "its extras: .*dask"),
            ("msgspec[nothing,yaml]", "msgspec has no extra 'nothing'", "its extras: "),
            ("numpy 2", "--with 'numpy 2': Expected.* end\n", "write it as for pip"),
            ("", "--with '': Expected", "write it as for pip"),
            ("numpy @ file:///tmp/numpy.whl", "not from an address", "and then --with numpy"),
        ],
    )
    def test_what_cannot_be_taken_is_said_with_the_fix(self, few, asked, what, fix):
        with pytest.raises(UsageError, match=what) as raised:
            wanted_packages(["click", asked])
        assert re.search(fix, raised.value.fix)

    def test_all_that_is_wrong_is_said_at_once(self, few):
        with pytest.raises(UsageError, match="one is not installed here.*; two is not installed here"):
            wanted_packages(["one", "two"])

    def test_without_packaging_the_extra_is_named(self, few, monkeypatch):
        monkeypatch.setitem(sys.modules, "packaging.requirements", None)
        with pytest.raises(MissingExtra, match="images need packaging") as raised:
            wanted_packages([])
        assert raised.value.fix == 'pip install "hooke-ml[dask]"'

    def test_hooke_itself_has_to_be_installed(self, monkeypatch):
        monkeypatch.setattr(requirements, "distributions", lambda: [distribution("click")])
        with pytest.raises(UsageError, match="hooke-ml is not installed here"):
            wanted_packages([])

    def test_what_an_extra_requires_has_to_be_here(self, tmp_path, monkeypatch):
        info = tmp_path / "toy-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\nProvides-Extra: fast\n"
            "Requires-Dist: absent-here; extra == 'fast'\nRequires-Dist: also-absent; sys_platform == 'win32'\n"
        )
        here = [Distribution.at(info), distribution("hooke-ml")]
        monkeypatch.setattr(requirements, "distributions", lambda: here)
        assert "toy" in {each.name for each in wanted_packages(["toy"])}
        with pytest.raises(
            UsageError, match=r"--with toy\[fast\]: it requires absent-here, which is not"
        ) as raised:
            wanted_packages(["toy[fast]"])
        assert "pip install 'toy[fast]'" in raised.value.fix

    def test_files_are_those_of_the_list_without_bytecode(self):
        found = [*packages_of([distribution("msgspec")])]
        assert f"{SITE}/msgspec/__init__.py" in paths(found)
        assert not [each for each in paths(found) if each.endswith((".pyc", "direct_url.json"))]

    def test_programs_run_the_images_python(self):
        found = {each.path: each for each in packages_of([distribution("pytest")])}
        program = found["opt/venv/bin/pytest"]
        assert program.executable
        assert program.content.startswith(b"#!/opt/venv/bin/python\n")

    def test_an_edited_file_is_refused(self, tmp_path):
        info = tmp_path / "toy-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
        (tmp_path / "toy.py").write_text("edited = True\n")
        (info / "RECORD").write_text(
            "toy.py,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0\ntoy-1.0.dist-info/RECORD,,\n"
        )
        with pytest.raises(UsageError, match=r"toy\.py is not as toy 1\.0 was installed"):
            [*packages_of([Distribution.at(info)])]
        (info / "RECORD").unlink()
        with pytest.raises(UsageError, match="has no list of its files"):
            [*packages_of([Distribution.at(info)])]
        (info / "RECORD").write_text(f"{os.path.relpath('/etc/passwd', tmp_path)},,\n")
        with pytest.raises(UsageError, match="has a file outside its environment: /etc/passwd"):
            [*packages_of([Distribution.at(info)])]

    @pytest.mark.long
    @pytest.mark.needs("processes")
    def test_an_editable_one_comes_as_its_wheel(self):
        found = {each.path: each for each in packages_of([distribution("hooke-ml")])}
        assert f"{SITE}/hooke/__init__.py" in found
        assert b"import hooke.cli" in found["opt/venv/bin/hooke"].content

    @pytest.mark.needs("cpu")
    def test_a_dockerfile_pins_what_is_installed(self):
        text = dockerfile(["pytest"])
        assert f"FROM python:{MINOR}-slim" in text
        assert f"    pytest=={distribution('pytest').version}" in text
        assert "USER 65532:65532" in text


class TestBase:
    @pytest.mark.long
    @pytest.mark.needs("processes")
    def test_two_builds_have_one_digest(self, order, tmp_path):
        found = []
        for place in ("one", "two"):
            layout = ImageLayout.create(tmp_path / place)
            found.append(build(order, layout, small_base(layout, path="usr/local/bin")))
        assert found[0] == found[1]
        made = found[0]
        assert made.config["config"]["User"] == "65532:65532"
        assert "PATH=/opt/venv/bin:/usr/bin" in made.config["config"]["Env"]
        assert "LANG=C.UTF-8" in made.config["config"]["Env"]
        assert "Entrypoint" not in made.config["config"], "that of the base is for something else"
        assert len(made.config["rootfs"]["diff_ids"]) == len(made.layers) == 3
        packages = files_of(layout, made.layers[1])
        assert packages["opt/venv/bin/python"].linkname == f"/usr/local/bin/python{MINOR}"
        assert f"{SITE}/hooke/__init__.py" in packages
        assert [*files_of(layout, made.layers[2])] == ["app", "app/job.py"]

    def test_another_python_is_refused(self, order, layout):
        with pytest.raises(UsageError, match=f"the base has no Python {MINOR}") as raised:
            build(order, layout, small_base(layout, python="3.9"))
        assert raised.value.why == "its Pythons: 3.9"
        assert layout.names() == []

    def test_another_machine_is_refused(self, order, layout):
        with pytest.raises(UsageError, match="the base is made for linux on s390x"):
            build(order, layout, small_base(layout, machine="s390x"))


@pytest.mark.needs("mmdebstrap", "root")
@pytest.mark.timeout(1200)
def test_an_image_runs(order, layout, tmp_path, monkeypatch):
    """Debian by mmdebstrap, with the packages of here: its Python finds Hooke, as nobody, and runs the project's pipeline."""
    (order.project / "job.py").write_text(JOB)
    base = debian_base(layout)
    with monkeypatch.context() as without:
        without.setenv("PATH", "")
        assert debian_base(layout) == base, "it is made once"
        with pytest.raises(UsageError, match="mmdebstrap is not installed"):
            debian_base(layout, fresh=True)
    made = build(order, layout, base)
    assert layout.names() == ["team/shop:1"]
    root = tmp_path / "root"
    root.mkdir()
    for layer in made.layers:
        subprocess.run(["tar", "-xzf", layout.path(layer.digest), "-C", root, "--same-owner"], check=True)

    def run(*command):
        inside = ["chroot", f"--userspec={made.config['config']['User']}", root, *command]
        return subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", f"--mount-proc={root}/proc", *inside],
            env=dict(each.split("=", 1) for each in made.config["config"]["Env"]),
            capture_output=True,
            text=True,
            check=False,
        )

    done = run("hooke", "--version")
    assert done.stdout.startswith("hooke "), done
    done = run(
        "python", "-c", "import hooke, numpy, sys, os; print(numpy.arange(3).sum(), sys.prefix, os.getuid())"
    )
    assert done.stdout == "3 /opt/venv 65532\n", done
    done = run("hooke", "run", "/app/job.py")
    assert done.stdout == "42\n", done


def test_a_zstd_layer_says_what_to_do(layout, order):
    base = small_base(layout)
    zstd = [replace(each, media_type=each.media_type.replace("gzip", "zstd")) for each in base.layers]
    with pytest.raises(UsageError, match="is compressed with zstd"):
        build(order, layout, replace(base, layers=tuple(zstd)))
