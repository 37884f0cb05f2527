"""The command line: `shiftsearch align`, `denoise`, `flow`, `compare`, `batch`, `demo`, `doctor`, `warm` and `completion`."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from contextlib import suppress

import shiftsearch
from shiftsearch import batch
from shiftsearch.video import cli
from shiftsearch.video.cli.notices import notices

_ABOUT = (
    "Find for each pixel of a video the places in other frames that show the same thing. Use them to remove noise, and to "
    "align frames."
)
_NEXT = "`shiftsearch COMMAND --help` says more of a command, with examples. Begin with `shiftsearch demo`."


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code: 0 (done), 1 (an error), 2 (not understood) or 130 (interrupted)."""
    sys.stdout, sys.stderr = (stream or io.StringIO() for stream in (sys.stdout, sys.stderr))  # None if they are closed
    args = _parser().parse_args(arguments)
    for name in ("SIGTERM", "SIGHUP"):  # clean up as after Ctrl-C
        with suppress(ValueError, AttributeError):  # signals need the main thread, and some systems lack these
            if signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN:
                signal.signal(getattr(signal, name), signal.default_int_handler)
    try:
        with notices():
            code = args.run(args)
        sys.stdout.flush()
        return code
    except shiftsearch.ShiftsearchError as error:
        print(f"shiftsearch {args.command}: {error}", file=sys.stderr)
    except OSError as error:  # while printing
        if not isinstance(error, BrokenPipeError):  # the reader of a pipe may leave early
            print(f"shiftsearch {args.command}: cannot print: {error.strerror or error}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python prints at exit
    except KeyboardInterrupt:
        kept = "" if getattr(args, "output", None) == "-" else ", nothing was written"
        print(f"shiftsearch {args.command}: interrupted{kept}", file=sys.stderr)
        return 130
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="shiftsearch", description=_ABOUT, epilog=_NEXT)
    parser.add_argument("--version", action="version", version=f"shiftsearch {shiftsearch.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, title="commands", metavar="COMMAND")
    cli.add_commands(commands)
    batch.add_command(commands)
    demo = commands.add_parser(
        "demo",
        help="denoise, search and align a small drawn film, and show how well it went",
        description="Denoise, search and align a small drawn film. Print a table of how well it went and how long it took, "
        "and write a picture of it.",
    )
    picture = "the picture to write (default %(default)s)"
    demo.add_argument("-o", "--out", default="shiftsearch-demo.png", metavar="FILE", help=picture)
    demo.add_argument("--json", metavar="FILE", help="also write the numbers of the table to this file")
    demo.set_defaults(run=_demo)
    doctor = commands.add_parser(
        "doctor",
        help="check this installation: versions, devices, every op on every backend",
        description="Check this installation. Print versions and devices, and try every op on every backend. The exit code "
        "is 1 if one is wrong.",
    )
    doctor.set_defaults(run=_doctor)
    warm = commands.add_parser(
        "warm",
        help="compile the kernels of common calls ahead, as for a container or a server",
        description="Compile the kernels of common calls ahead. Then nobody waits for them at the first call. They are kept "
        "on disk for the user, for this kind of processor and for each kind of GPU. NUMBA_CACHE_DIR and CUPY_CACHE_DIR say "
        "where. Set them alike for the programs that use the kernels.",
    )
    devices = "cpu, cuda (all GPUs), cuda:N, or auto: the CPU and all GPUs that are there (default %(default)s)"
    warm.add_argument("--device", default="auto", metavar="auto|cpu|cuda|cuda:N", help=devices)
    warm.set_defaults(run=_warm)
    cli.add_completion(commands)
    return parser


def _demo(args: argparse.Namespace) -> int:
    from shiftsearch.demo.run import run

    run(args.out, args.json)
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from shiftsearch.doctor import examine

    return 0 if examine() else 1


def _warm(args: argparse.Namespace) -> int:
    from shiftsearch.warm import warm

    warm(args.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
