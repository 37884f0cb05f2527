"""What it takes to add an op: `halve`, whose files are in tests/new_op/.

Five files have what is new: the op and its public function (`shiftsearch/ops/halve.py`), the meaning of its primitive
(`shiftsearch/definition/halve.py`), its loops (`shiftsearch/backends/cpu/halve.py`), its kernel (`cuda_src/halve.cu`) and the
launch of it (`shiftsearch/backends/cuda/halve.py`). One file gets an entry, `shiftsearch/__init__.py`: the public name. An op of
primitives that exist is one file and that entry.

Here they are copied into a copy of the package, where the tests of all ops find `halve` unedited. More tests of it are
in tests/new_op/checks.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import shiftsearch
from shiftsearch import _source, definition
from shiftsearch._primitive import primitive, primitives

HERE = Path(__file__).parent
_TESTS = ["new_op/checks.py", "test_ops.py", "test_gradients.py", "test_layers.py", "test_docstrings.py"]


@pytest.fixture
def home(tmp_path):
    """Return a folder with the package, the sources of its kernels, and the files of `halve`."""
    there = {"shiftsearch": Path(shiftsearch.__file__).parent, "cuda_src": _source.directory()}
    for name, folder in there.items():
        shutil.copytree(folder, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "cuda_src"))
        shutil.copytree(HERE / "new_op" / name, tmp_path / name, dirs_exist_ok=True)
    entry = tmp_path / "shiftsearch" / "__init__.py"
    text = entry.read_text()
    text = text.replace(
        "\nfrom shiftsearch.ops.match", "\nfrom shiftsearch.ops.halve import halve\nfrom shiftsearch.ops.match"
    )
    entry.write_text(text.replace('    "match",\n', '    "halve",\n    "match",\n'))
    return tmp_path


@pytest.mark.full
def test_the_tests_of_all_ops_find_it(home):
    files = [str(HERE / file) for file in _TESTS]
    only_it = ["--full", "-k", "halve and not halves"]  # `halves` are a kind of flow
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rp",
        "-p",
        "no:cacheprovider",
        "-c",
        HERE.parent / "pyproject.toml",
    ]
    paths = os.pathsep.join(map(str, (home, HERE)))
    done = subprocess.run(
        [*command, *only_it, *files], capture_output=True, text=True, cwd=home, env={**os.environ, "PYTHONPATH": paths}
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    for file in _TESTS:
        assert f"/{file}::" in done.stdout, f"{file} has no test of it:\n{done.stdout}"


def test_a_primitive_has_one_home():
    def score():
        """Is named like another one in its folder."""

    score.__module__ = f"{definition.__name__}.scoring"
    both = "shiftsearch.definition.form and shiftsearch.definition.scoring both define the primitive score"
    with pytest.raises(ImportError, match=both):
        primitive(score)


def test_every_backend_has_every_primitive():
    packages = ("definition", "backends.cpu", "backends.cuda")
    first, *others = (primitives(f"shiftsearch.{package}").keys() for package in packages)
    assert all(other == first for other in others)
