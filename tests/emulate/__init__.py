"""CUDA kernels on the CPU, checked: the text that a GPU would get, compiled by g++ and run a thread at a time."""

from emulate.emulator import Emulator, EmulatorError, available, run_under_tsan

__all__ = ["Emulator", "EmulatorError", "available", "run_under_tsan"]
