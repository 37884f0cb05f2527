"""Other libraries' models of the same systems, for tests that compare with them. A test is skipped where one is missing."""

from __future__ import annotations

import ctypes
import importlib
import os
import shutil
import subprocess
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch


def library(name: str) -> ModuleType:
    """Import a library, or skip the test with the reason."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what these libraries do when they are imported
        patch.setattr(torch.library, "register_fake", _but_for_torchvision)
        try:
            return importlib.import_module(name)
        except (ImportError, RuntimeError) as error:
            pytest.skip(f"needs {name}: {error}")


_register_fake = torch.library.register_fake


def _but_for_torchvision(op, *arguments, **options):
    """Register nothing of the operators that torchvision lacks beside a torch for CPUs: models do not need them."""
    if isinstance(op, str) and op.startswith("torchvision::"):
        return lambda function: function
    return _register_fake(op, *arguments, **options)


_OF_CUDA = "void *_ZN3c104cuda20CUDACachingAllocator9allocatorE[2];"  # the only variable of CUDA's that operators name


def torchvision_operators(folder: Path) -> Any:
    """Return torchvision's compiled operators, or skip the test.

    Their library asks for torch's libraries of CUDA, which a torch for CPUs lacks. On the CPU none of them is called, so
    that empty ones, which are made in the folder, will do.
    """
    package = Path(str(library("torchvision").__file__)).parent
    if not hasattr(torch.ops.torchvision, "deform_conv2d"):
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("operators of torchvision need a C compiler")
        source = folder / "of_cuda.c"
        source.write_text(_OF_CUDA)
        empty = [folder / name for name in ("libc10_cuda.so", "libtorch_cuda.so")]
        for path in empty:
            flags = ["-shared", "-fPIC", f"-Wl,-soname,{path.name}"]
            subprocess.run([compiler, *flags, "-o", str(path), str(source)], check=True)
        try:
            for path in (*empty, *package.parent.glob("torchvision.libs/libcudart*")):
                ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
            ctypes.CDLL(str(package / "_C.so"), os.RTLD_LAZY)  # functions are looked for when they are called
        except OSError as error:
            pytest.skip(f"torchvision has no operators for this torch: {error}")
    return torch.ops.torchvision
