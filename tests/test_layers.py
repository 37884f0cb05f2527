"""The structure of the package: imports point one way, public names and parameters are right, the wheel is complete."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import shiftsearch as ss
from shiftsearch import _geometry, _source
from shiftsearch._op import OPS

PACKAGE = Path(ss.__file__).parent
HOME = PACKAGE.parent  # the checkout or where packages are installed
ROOT = Path(__file__).parent.parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# a module imports modules of smaller rank only, or of its own among ops and within one backend
_RANKS = [
    "errors",
    "threads",
    "_types",
    "_source",
    "_geometry",
    "_cosines",
    "_op",
    "_primitive",
    "_elsewhere",
    "definition",
    "backends",
    "_homes",
    "_arrays",
    "_torch",
    "_call",
    "ops",
    "video.types",
    "video.frames",
    "video.forms",
    "video.scale",
    "video.noise",
    "video.light",
    "video.pans",
    "video.streams",
    "video.device",
    "video.scenes",
    "video.chunks",
    "video.flow",
    "video.align",
    "video.denoise",
    "flow",
    "video.io",
    "video",
    "",
    "nn",
    "models",
    "vapoursynth",
    "video.cli",
    "batch",
    "demo",
    "doctor",
    "warm",
    "__main__",
]


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def rank(module: str) -> int:
    fitting = [r for r, name in enumerate(_RANKS) if module == name or (name and module.startswith(name + "."))]
    return max(fitting, key=lambda r: len(_RANKS[r]))


def imports(path: Path, top_only=False) -> set[str]:
    """Return the modules that a file imports, except for types; with `top_only` only those at import time."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    parents = [node for node in nodes if _for_types(node)]
    if top_only:
        parents += [node for node in nodes if isinstance(node, (ast.FunctionDef, ast.Lambda))]
    inside = {node for parent in parents for node in ast.walk(parent) if node is not parent}
    nodes = [node for node in nodes if node not in inside]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names if _is_module(node, alias)}
    return found


def _for_types(node) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _is_module(node, alias) -> bool:
    at = HOME.joinpath(*node.module.split("."), alias.name)
    return at.with_suffix(".py").exists() or (at / "__init__.py").exists()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path):
    here = name_of(path)
    for module in imports(path):
        if not module.startswith("shiftsearch."):
            continue
        there = module.removeprefix("shiftsearch.")
        sibling = here.split(".")[:-1] == there.split(".")[:-1] and here.count(".")
        package = here.startswith(there + ".")
        assert rank(there) < rank(here) or sibling or package or here == there.rpartition(".")[0], (
            f"{here} imports {there}"
        )


def test_imports_do_not_go_round_in_a_circle():
    """This holds among modules of one rank, too. A package is imported with each of its modules, and is no module itself."""
    names = {name_of(path): path for path in MODULES if path.name != "__init__.py"}
    waiting = {
        name: {m.removeprefix("shiftsearch.") for m in imports(path) if m.startswith("shiftsearch.")} & names.keys()
        for name, path in names.items()
    }
    while ready := [name for name, needed in waiting.items() if not needed & waiting.keys()]:
        for name in ready:
            del waiting[name]
    assert not waiting


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_optional_libraries_have_one_home(path):
    homes = {
        "numba": "backends.cpu",
        "llvmlite": (
            "backends.cpu",
            *(f"video.denoise.{name}" for name in ("closest", "components", "nearest", "spectra")),
        ),
        "cupy": "backends.cuda",
        "av": "video.io",
        "tqdm": "video.cli",
        "fsspec": "batch.storage",
        "ray": "batch.cluster",
        "safetensors": "models.load",
        "skimage": "video.cli",
        "vapoursynth": "vapoursynth",
        "cv2": "video.flow.measure",
    }
    for module in imports(path):
        library = module.split(".")[0]
        assert name_of(path).startswith(homes.get(library, "")), f"{path} imports {library}"
    when_imported = {module.split(".")[0] for module in imports(path, top_only=True)}
    assert not when_imported & {"cupy", "ml_dtypes", "cv2"}
    assert "torch" not in when_imported or name_of(path).split(".")[0] in ("_torch", "nn", "models")


def test_import_loads_nothing_heavy():
    code = "import sys, shiftsearch; print([m for m in ('numba', 'llvmlite', 'torch', 'cupy', 'ml_dtypes', 'scipy', 'cv2') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True, cwd=HOME
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


# --- names ------------------------------------------------------------------------------------------
_DEFAULTS = {  # the same for each op that has such an option
    "window": 9,
    "patch": 1,
    "radius": 1,
    "topk": 10,
    "heads": 1,
    "stride": 1,
    "step": 1,
    "dilation": 1,
    "metric": "l2",
    "border": "reflect",
    "subpixel": False,
    "slide": True,
    "penalty": 0.0,
    "anchor": None,
    "skip": None,
    "per_frame": False,
    "queries": None,
}
_OTHER_DEFAULTS = {"refine": {"window": 3, "topk": None}}
_OF_ALIGN = {
    "window": 9,
    "patch": 3,
    "penalty": 0.05,
    "sigma": None,
    "subpixel": True,
    "output": "patch",
    "interp": "bicubic",
    "white": None,
    "bits": None,
    "return_offsets": False,
    "return_mask": False,
    "max_memory": "1GiB",
    "progress": None,
}
_OF_GRAIN = {"strength": 1.0, "mix": 0.0, "temporal_only": False, "white": None, "bits": None}
_OF_STREAM = {"quality": "fast", "radius": None, "flow": "auto", **_OF_GRAIN, "max_memory": None, "device": None}
_OF_DENOISE = {**{name: given for name, given in _OF_STREAM.items() if name != "device"}, "progress": None}
NEEDED = inspect.Parameter.empty
SIGNATURES = {
    "neighbours": ({"frames": NEEDED, "radius": NEEDED}, {}),
    "coverage": ({"size": NEEDED}, {"patch": 1, "stride": 1, "dilation": 1}),
    "upsample_flow": ({"flow": NEEDED, "size": NEEDED}, {}),
    "align": ({"reference": NEEDED, "frames": NEEDED, "flow": "auto"}, _OF_ALIGN),
    "align_clip": (
        {"frames": NEEDED, "to": "previous", "flow": "auto"},
        {"return_offsets": False, "return_mask": False, "progress": None},
    ),
    "align_stream": (
        {"frames": NEEDED, "to": "previous", "flow": "auto"},
        {"return_offsets": False, "return_mask": False, "device": None},
    ),
    "denoise": ({"frames": NEEDED, "sigma": None}, _OF_DENOISE),
    "denoise_stream": ({"frames": NEEDED, "sigma": None}, _OF_STREAM),
    "denoise_overlap": ({}, {"quality": "fast", "radius": None}),
    "estimate_noise": ({"frames": NEEDED}, {"box": None, "flow": "auto", "white": None, "bits": None}),
    "chunks": ({"frames": NEEDED, "size": NEEDED, "overlap": NEEDED, "cuts": ()}, {}),
    "scene_cuts": ({"frames": NEEDED}, {}),
    "set_num_threads": ({"number": NEEDED}, {}),
    "get_num_threads": ({}, {}),
}


def test_every_public_function_has_its_signature_here_or_is_an_op():
    assert {"ShiftsearchError", "flow", *SIGNATURES, *OPS} == set(ss.__all__)
    public = {name for name, value in vars(ss).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert public == set(ss.__all__) - {"flow"}
    assert set(ss.flow.__all__) == {name for name in vars(ss.flow) if not name.startswith("_")}


@pytest.mark.parametrize("op", OPS.values(), ids=OPS.keys())
def test_an_op_is_public_and_its_parameters_are_its_arrays_and_its_options(op):
    """Arrays in the order of the op, except that optional ones come last."""
    assert getattr(ss, op.name) is op.function
    parameters = inspect.signature(op.function).parameters
    arrays = {n: p.default for n, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD}
    needed = [name for name, given in op.inputs.items() if not given.optional]
    assert list(arrays.items()) == [(n, NEEDED) for n in needed] + [(n, None) for n in op.inputs if n not in needed]
    options = {n: p.default for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    found_by_the_call = {"differentiable"} & set(op.options)
    of_another_op = {"frames"} & set(options)  # with which the function calls `refine`
    assert {"caller", *options, *found_by_the_call} - of_another_op == set(op.options)
    expected = {**_DEFAULTS, **_OTHER_DEFAULTS.get(op.name, {})}
    with_default = {name: default for name, default in options.items() if default is not NEEDED}
    assert with_default == {name: expected.get(name, default) for name, default in with_default.items()}


@pytest.mark.parametrize("name", SIGNATURES)
def test_names_and_defaults_are_as_promised(name):
    parameters = inspect.signature(getattr(ss, name)).parameters
    arrays, options = SIGNATURES[name]
    kinds = {n: p.default for n, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD}
    assert list(kinds.items()) == list(arrays.items())
    assert {n: p.default for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY} == options


@pytest.mark.parametrize("name", [*OPS, *SIGNATURES])
def test_every_public_function_has_a_docstring_with_an_example(name):
    text = inspect.getdoc(getattr(ss, name))
    for part in ("Args:", "Returns:", "Example:", ">>> "):
        assert part in text
    for parameter in inspect.signature(getattr(ss, name)).parameters:
        assert parameter in text or "others: as in `search`" in text


def test_the_version_is_that_of_the_metadata():
    assert importlib.metadata.version("shiftsearch") == ss.__version__


# --- sources for the GPU ----------------------------------------------------------------------------
def test_kernel_sources_are_found():
    assert (Path(_source.directory()) / "grid.cuh").is_file()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_reflection_is_folding_back_and_forth(n):
    """Also of fractions: a step at a time, from inside."""
    x = np.arange(-12, 13, 0.25)
    expected = []
    for value in x:
        while not 0 <= value <= n - 1:
            value = 0 if n == 1 else -value if value < 0 else 2 * (n - 1) - value
        expected.append(value)
    np.testing.assert_array_equal(_geometry.reflect(x, n), expected)


def test_only_commands_print_and_the_rest_is_logged():
    """So that a program decides where notices go, and stdout is free for pipes."""
    printing = {"__main__", "batch.command", "batch.progress", "demo.run", "doctor", "warm"}
    for path in MODULES:
        if name_of(path) in printing or "cli" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.Name) and node.id == "print"), f"{path}:{node.lineno} prints"
            assert not (isinstance(node, ast.Attribute) and node.attr in ("stderr", "stdout")), f"{path}:{node.lineno}"


def test_notices_have_the_name_of_the_package(monkeypatch, caplog, tmp_path):
    from numba.core import config

    from shiftsearch.backends.cpu import jit

    @jit.kernel()
    def thrice(a):
        for n in range(len(a)):
            a[n] *= 3

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(jit._Announce, "said", False)
    thrice(np.ones(3))
    thrice(np.ones(3, np.float32))
    assert [(record.name, record.levelname) for record in caplog.records] == [("shiftsearch", "WARNING")]
