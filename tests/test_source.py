"""CUDA sources are found and spliced into one text."""

import re

import pytest

from shiftsearch import ShiftsearchError, _source


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder of sources to be used instead of cuda_src."""
    monkeypatch.setattr(_source, "directory", lambda: tmp_path)
    _source.read.cache_clear()
    yield tmp_path
    _source.read.cache_clear()


def test_sources_are_found_however_the_package_is_installed():
    assert "reflect" in _source.read("grid.cuh")


_END = r"^}.*$|(?<=})\n+(?=\S)"  # of a function or a struct, also of one line


def _functions(text: str) -> list[str]:
    """Return the functions of a text, those of structs one by one."""
    blocks = re.split(_END, text, flags=re.M)
    structs = [block for block in blocks if re.search(r"^struct ", block, flags=re.M)]
    members = [member for block in structs for member in re.split(r"^    }$", block, flags=re.M)]
    return [block for block in blocks if block not in structs] + members


def test_functions_and_lines_are_short_and_files_begin_with_a_comment():
    """Also, inline PTX, which only a GPU understands, is in one file at most."""
    for path in _source.directory().iterdir():
        text = path.read_text(encoding="utf-8")
        assert text.startswith("// "), path.name
        for number, line in enumerate(text.splitlines(), 1):
            assert len(line) <= 120, f"{path.name}:{number}"
        for function in _functions(text):
            lines = function.splitlines()
            starts = [i for i, line in enumerate(lines) if line and not line.startswith(("//", "#"))]
            assert not starts or len(lines) - starts[0] < 70, f"{path.name}: {lines[starts[0]]}"
        assert path.name == "ptx.cuh" or "asm" not in text


# Doubles that are no positions, or where nothing is rounded: weights of samples, flow and its gradients, the fraction
# behind a pixel, how far a candidate is from the centre, cosines, and, by name, how many candidates come before it.
_NO_POSITIONS = (
    "along",
    "sample",
    "flow_at",
    "spot_at",
    "spot_of",
    "chain_flow",
    "chain_flow_backward",
    "ranked",
    "penalize",
    "root",
    "cosine",
)
_COUNTS = {"before"}
_FUNCTION = re.compile(r"^(?:[^(\n]*__device__[^(\n]*\b)?(\w+)\(", flags=re.M)
_INTRINSIC = re.compile(r"__d(add|mul|div)_rn\(")


def _plain_arithmetic(text: str) -> list[str]:
    """Return lines of functions about positions in which a double is an operand of + - * /."""
    found = []
    for block in re.split(_END, re.sub(r"//.*", "", text), flags=re.M):
        name = _FUNCTION.search(block)
        if name is None or name[1] in _NO_POSITIONS:
            continue
        declared = re.findall(r"\bdouble (\w+)(?:[^;(){}]*?=[^;{}]*?, (\w+) =)?", block)
        names = "|".join(sorted({*filter(None, sum(declared, ()))} - _COUNTS) or ["(?!)"])
        double = rf"(?<![\w.])(?:\w+\.centre|(?<!\(Whole\))SS_STEP|(?:\w+\.)?(?:{names}))\b(?![.\[(])"
        plain = re.compile(rf"(?:{double}|\(double\)[\w.]+)\s*[-+*/]|[\w)\]]\s*[-+*/]=?\s*-?(?:{double}|\(double\))")
        found += [f"{name[1]}: {line.strip()}" for line in block.splitlines() if plain.search(line)]
    return found


def _made_plain(text: str):
    """`text` with one intrinsic after the other written as an operator."""
    for call in _INTRINSIC.finditer(text):
        if text.rfind("//", text.rfind("\n", 0, call.start()), call.start()) >= 0:
            continue
        depth, comma, end = 1, None, call.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            if depth == 1 and text[end] == ",":
                comma = end
            end += 1
        operator = {"add": "+", "mul": "*", "div": "/"}[call[1]]
        yield f"{text[: call.start()]}{text[call.end() : comma]} {operator} {text[comma + 1 : end - 1].strip()}{text[end:]}"


@pytest.mark.parametrize("path", sorted(_source.directory().iterdir()), ids=lambda path: path.name)
def test_positions_are_added_and_multiplied_one_by_one(path):
    """A compiler may join a product and a sum written as operators, as NVRTC does unless told otherwise, and round once:
    a window would then end elsewhere than on other backends. The emulator's compiler does not, so that no run shows it.
    What is no position, and may be written plainly, is named above.
    """
    text = path.read_text(encoding="utf-8")
    assert _plain_arithmetic(text) == []
    for plain in _made_plain(text):
        assert len(_plain_arithmetic(plain)) == 1, "the rule does not see one that is missing"


def test_memory_that_all_lanes_read_is_not_reused_too_early():
    """Each lane reads its own entries because of the order in which a buffer is filled, so no run shows this race."""
    _, *again = _source.read("search.cu").split("topk.start(buffer);")[:-1]
    assert len(again) == 1
    assert again[0].rstrip().endswith("__syncwarp();")


def test_a_header_is_spliced_in_once_and_lines_keep_their_numbers(folder):
    (folder / "a.cuh").write_text("int a;\n")
    (folder / "b.cuh").write_text('#include "a.cuh"\nint b;\n')
    (folder / "op.cu").write_text('// op\n#include "a.cuh"\n#include "b.cuh"\n#include <system.h>\nint op;\n')
    assert _source.read("op.cu").split("\n") == [
        '#line 1 "op.cu"',
        "// op",
        '#line 1 "a.cuh"',
        "int a;",
        '#line 3 "op.cu"',
        '#line 1 "b.cuh"',
        "",
        "int b;",
        '#line 4 "op.cu"',
        "#include <system.h>",
        "int op;",
    ]


def test_headers_that_include_each_other_end(folder):
    (folder / "a.cuh").write_text('#include "b.cuh"\nint a;\n')
    (folder / "b.cuh").write_text('#include "a.cuh"\nint b;\n')
    assert _source.read("a.cuh").count("int a;") == 1


def test_a_missing_file_is_named(folder):
    (folder / "op.cu").write_text('#include "gone.cuh"\n')
    with pytest.raises(ShiftsearchError, match=r"gone\.cuh is not in .* expected one of op\.cu"):
        _source.read("op.cu")
