"""The quick run covers every op, option and dtype on every backend, as docs/tests.md says, and reports what it leaves out."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from backends import RUNS
from cases import CASES
from quick import cover, kind

pytestmark = pytest.mark.xdist_group("quick run")  # which is collected once
FOLDER = Path(__file__).parent
NAMES = {case.name: case for case in CASES}
BACKENDS = {parameter.values[0].backend for parameter in RUNS}


def collected(*arguments: str) -> str:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def quick() -> str:
    return collected(str(FOLDER / "test_ops.py"))


def shown(quick: str, *tests: str) -> list[tuple]:
    """(case, backend, precision) of each item of these tests."""
    found = re.findall(rf"::(?:{'|'.join(tests)})\[(.+)-(\w+)-(\w+)\]", quick)
    return [(NAMES[case], backend, precision) for case, backend, precision in found]


def values(case) -> set[tuple]:
    options = {(case.op.name, f.name, kind(getattr(case.spec, f.name))) for f in fields(case.spec)}
    return options | {(case.op.name, "at", case.offsets), (case.op.name, "along", case.flow)}


_FORWARD = ("test_outputs_are_those_of_the_definition", "test_kept_candidates_are_those_of_the_definition")
_BACKWARD = ("test_gradients_are_those_of_the_definition",)


@pytest.mark.parametrize(
    ("backend", "tests"),
    [*((backend, _FORWARD) for backend in sorted(BACKENDS)), ("cpu", _BACKWARD)],
    ids=[*(f"{backend}-forward" for backend in sorted(BACKENDS)), "cpu-backward"],
)
def test_every_option_is_in_the_quick_run(quick, backend, tests):
    found = set().union(*(values(case) for case, where, _ in shown(quick, *tests) if where == backend))
    asked = [case for case in CASES if tests is _FORWARD or case.values != "nan"]
    assert found == set().union(*map(values, asked))


@pytest.mark.parametrize("tests", [_FORWARD, _BACKWARD], ids=["forward", "backward"])
def test_every_op_is_in_the_quick_run_in_every_dtype(quick, tests):
    found = {(case.op.name, backend, precision) for case, backend, precision in shown(quick, *tests)}
    runs = [parameter.values[0] for parameter in RUNS]
    assert found == {(case.op.name, run.backend, run.precision) for case in CASES for run in runs}


@pytest.mark.full
def test_it_is_quick_and_says_what_it_leaves_out(quick):
    left_out = int(re.search(r"^pytest --full adds (\d+) tests", quick, re.MULTILINE)[1])
    chosen = quick.count("::")
    assert chosen < left_out / 3
    assert collected(str(FOLDER / "test_ops.py"), "--full").count("::") == chosen + left_out


@pytest.mark.full
def test_the_rest_is_what_it_leaves_out(quick):
    def names(found):
        return {line for line in found.splitlines() if "::" in line}

    files = [str(FOLDER / "test_ops.py")]
    rest = names(collected(*files, "--rest"))
    assert not rest & names(quick)
    assert rest | names(quick) == names(collected(*files, "--full"))


@pytest.mark.full
def test_a_test_that_is_asked_for_by_name_is_run():
    name = f"{FOLDER / 'test_ops.py'}::test_outputs_are_those_of_the_definition[score: dot-cpu-single]"
    assert collected(name).count("::") == 1


def test_a_choice_shows_everything_and_nothing_twice():
    assert cover([{1}, {1, 2}, {3}, {2, 3}, {3}]) == [1, 2]
    assert cover([{1, 2}, {2, 3}, {3, 4}]) == [0, 2]
    assert cover([]) == []


def test_a_group_is_kept_together(request):
    """By its name behind that of a test. A pytest that pytest-xdist does not know drops it and says nothing."""
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("needs a process of pytest-xdist with --dist loadgroup")
    assert request.node.nodeid.endswith("@quick run")
