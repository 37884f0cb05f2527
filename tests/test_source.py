"""CUDA sources are found and spliced into one text."""

import re

import pytest

from shiftsearch import ShiftsearchError, _source


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of sources that stands for cuda_src."""
    monkeypatch.setattr(_source, "directory", lambda: tmp_path)
    _source.read.cache_clear()
    yield tmp_path
    _source.read.cache_clear()


def test_sources_are_found_however_the_package_is_installed():
    assert "ss_reflect" in _source.read("grid.cuh")


def test_functions_and_lines_are_short_and_files_say_what_they_are():
    """Also: what only a GPU understands, inline PTX, would be in one file."""
    for path in _source.directory().iterdir():
        text = path.read_text(encoding="utf-8")
        assert text.startswith("// "), path.name
        for number, line in enumerate(text.splitlines(), 1):
            assert len(line) <= 120, f"{path.name}:{number}"
        for block in re.split(r"^}.*$", text, flags=re.M)[:-1]:
            lines = block.splitlines()
            starts = [i for i, line in enumerate(lines) if line and not line.startswith((" ", "//", "#", "}"))]
            assert len(lines) - starts[0] < 70, f"{path.name}: {lines[starts[0]]}"
        assert path.name == "ptx.cuh" or "asm" not in text


def test_a_header_is_spliced_in_once_and_lines_keep_their_numbers(folder):
    (folder / "a.cuh").write_text("int a;\n")
    (folder / "b.cuh").write_text('#include "a.cuh"\nint b;\n')
    (folder / "op.cu").write_text('// op\n#include "a.cuh"\n#include "b.cuh"\n#include <system.h>\nint op;\n')
    assert _source.read("op.cu").split("\n") == [
        '#line 1 "op.cu"', "// op", '#line 1 "a.cuh"', "int a;", '#line 3 "op.cu"',
        '#line 1 "b.cuh"', "", "int b;", '#line 4 "op.cu"', "#include <system.h>", "int op;",
    ]  # fmt: skip


def test_headers_that_include_each_other_end(folder):
    (folder / "a.cuh").write_text('#include "b.cuh"\nint a;\n')
    (folder / "b.cuh").write_text('#include "a.cuh"\nint b;\n')
    assert _source.read("a.cuh").count("int a;") == 1


def test_a_missing_file_is_named(folder):
    (folder / "op.cu").write_text('#include "gone.cuh"\n')
    with pytest.raises(ShiftsearchError, match=r"gone\.cuh is missing .* expected one of op\.cu"):
        _source.read("op.cu")
