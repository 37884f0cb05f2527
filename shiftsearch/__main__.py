"""The command line: `shiftsearch doctor`."""

from __future__ import annotations

import argparse
import sys

import shiftsearch


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="shiftsearch", description="Shifted non-local search in video.")
    parser.add_argument("--version", action="version", version=f"shiftsearch {shiftsearch.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="check this installation: versions, devices, every op on every backend")
    parser.parse_args(arguments)
    from shiftsearch.doctor import examine  # numba and all that: not for --help

    return 0 if examine() else 1


if __name__ == "__main__":
    sys.exit(main())
