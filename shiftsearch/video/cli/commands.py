"""The commands and their arguments, for argparse."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from shiftsearch.video.align.spec import ONTO, AlignSpec
from shiftsearch.video.cli.compare import compare
from shiftsearch.video.cli.convert import align, denoise
from shiftsearch.video.cli.motion import flow
from shiftsearch.video.cli.several import each
from shiftsearch.video.denoise.qualities import PASSES, RADII
from shiftsearch.video.denoise.spec import DenoiseSpec
from shiftsearch.video.flow.measure import METHODS
from shiftsearch.video.types import METHOD

_FORMAT = "FFmpeg's name of the input format (default: detected). Lists of other files need it, such as hls"

_INPUT = (
    "a video file; pictures by number, such as shot.%%04d.png; or - for Y4M from the standard input. Or give several: "
    "files, folders with all below them, and patterns such as 'films/*.mp4'"
)
_OUTPUT = (
    "the file to write, which appears when it is complete; or - for Y4M to the standard output. For several inputs, name "
    "a folder: the results there have the names of the inputs"
)
_VERBOSE = "also say what is read and written, how it is computed, and where an unexpected error came from"


def add_commands(commands: Any) -> None:
    """Add each command to argparse's `commands`, with the function that runs it as `run`."""
    _add_align(commands)
    _add_denoise(commands)
    _add_flow(commands)
    _add_compare(commands)


def _add_align(commands: Any) -> None:
    _command(
        commands,
        "align",
        align,
        (align_options, output_options),
        "move each frame onto its neighbour, or all frames onto one",
        "shiftsearch align shaky.mp4 -o onto-first.mp4 --to 0",
        "shiftsearch align in.mkv -o out.mkv --to next --window 13 --codec ffv1",
        "shiftsearch align in.mp4 -o out.mp4 --frames 100:200 --preview look.png",
    )


def align_options(parser: Any) -> None:
    """Add the options that only align has."""
    to = "the frame to move onto: the one before, the one after, or frame N (default %(default)s)"
    parser.add_argument("--to", default=ONTO, metavar="previous|next|N", type=_target, help=to)
    window = "search a window of this side around where the flow leads (default %(default)s)"
    parser.add_argument("--window", type=int, default=AlignSpec.window, metavar="PIXELS", help=window)
    patch = "compare patches of this side (default %(default)s)"
    parser.add_argument("--patch", type=int, default=AlignSpec.patch, metavar="PIXELS", help=patch)
    mask = "also write which pixels of the first plane both frames show: booleans (T, H, W)"
    parser.add_argument("--mask", metavar="NPY", help=mask)
    _add_method(parser)


def _add_denoise(commands: Any) -> None:
    _command(
        commands,
        "denoise",
        denoise,
        (denoise_options, output_options),
        "remove noise, with the help of the frames before and after",
        "shiftsearch denoise noisy.mp4 -o clean.mp4",
        "shiftsearch denoise in.mov -o out.mkv --sigma 12,6,6 --quality high --codec ffv1",
        "shiftsearch denoise in.mp4 -o out.mp4 --strength 1,1.5,1.5 --mix 0.2",
        "shiftsearch denoise in.mp4 -o try.mp4 --frames 0:50 --preview look.png",
        "shiftsearch denoise films/ more/*.mov -o clean/ --no-clobber",
        "vspipe -c y4m script.vpy - | shiftsearch denoise - -o - | ffmpeg -i - out.mkv",
    )


def denoise_options(parser: Any) -> None:
    """Add the options that only denoise has."""
    sigma = (
        "standard deviation of the noise: one number, or one for each plane as Y,U,V. It is that of the file's own "
        "samples, on a scale of 0 to 255 whatever their depth (default: found for each plane, and printed)"
    )
    parser.add_argument("--sigma", type=_sigma, metavar="N|Y,U,V", help=sigma)
    parser.add_argument(
        "--quality", choices=[*PASSES], default=DenoiseSpec.quality, help="better is slower (default %(default)s)"
    )
    usual = ", ".join(f"{radius} for {quality}" for quality, radius in RADII.items())
    radius = f"use this many frames before, and as many after (default {usual})"
    parser.add_argument("--radius", type=int, default=DenoiseSpec.radius, metavar="FRAMES", help=radius)
    strength = "multiply what is taken for noise, for all planes or for each: more is smoother (default 1)"
    parser.add_argument("--strength", type=_strength, default=1.0, metavar="N|Y,U,V", help=strength)
    mix = "keep this share of the grain, from 0 to 1 (default %(default)g)"
    parser.add_argument("--mix", type=float, default=DenoiseSpec.mix, metavar="N", help=mix)
    alone = "average along the motion only, and never pixels of one frame"
    parser.add_argument("--temporal-only", action="store_true", help=alone)
    flow = (
        "how motion is measured: auto, match, dis, farneback or none. Or the .npy file that `shiftsearch flow` wrote for "
        "the whole input (default %(default)s)"
    )
    parser.add_argument("--flow", default=METHOD, metavar="METHOD|NPY", help=flow)


def _add_flow(commands: Any) -> None:
    _command(
        commands,
        "flow",
        flow,
        (_flow_options, _add_codec),
        "write the motion from each frame to the next, in colours or as numbers",
        "shiftsearch flow in.mp4 -o motion.mp4",
        "shiftsearch flow in.mp4 -o motion.npy    # (T - 1, 2, H, W): dx, dy in pixels",
    )


def _flow_options(parser: Any) -> None:
    longest = "give a motion of this length the full colour (default: width / 32)"
    parser.add_argument("--longest", type=float, metavar="PIXELS", help=longest)
    _add_method(parser)


def _add_compare(commands: Any) -> None:
    text = "print PSNR and SSIM of one file against another"
    examples = (
        "shiftsearch compare original.mp4 denoised.mp4",
        "shiftsearch compare original.mp4 denoised.mp4 --frames 0:50",
        "shiftsearch compare original.mp4 denoised.mp4 --json | jq .psnr.mean",
    )
    parser = commands.add_parser("compare", **texts(text, examples))
    parser.add_argument("a", help="a video file, a picture, or - for Y4M from the standard input")
    parser.add_argument("b", help="another one of the same size")
    parser.add_argument("--json", action="store_true", help="print JSON, with the values of each frame")
    _add_frames(parser)
    parser.add_argument("--format", metavar="NAME", help=_FORMAT)
    _add_computing(parser)
    _add_messages(parser)
    parser.set_defaults(run=compare)


# --- arguments of several commands ------------------------------------------------------------------
def _command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    options: tuple[Callable[[Any], None], Callable[[Any], None]],
    text: str,
    *examples: str,
) -> None:
    """Add a command that writes a video. `options` adds those of its own, and those of what it writes."""
    own, written = options
    parser = commands.add_parser(name, **texts(text, examples))
    parser.add_argument("inputs", nargs="+", metavar="input", help=_INPUT)
    parser.add_argument("-o", "--output", required=True, metavar="FILE|FOLDER|-", help=_OUTPUT)
    own(parser.add_argument_group(f"options of {name}"))
    input_options(parser.add_argument_group("options of the input"))
    output = parser.add_argument_group("options of the output")
    older = output.add_mutually_exclusive_group()
    older.add_argument("--overwrite", action="store_true", help="replace an older file (default: an error)")
    older.add_argument("--no-clobber", action="store_true", help="leave an older file, and go on with the next input")
    suffix_option(output)
    written(output)
    _add_computing(parser.add_argument_group("where and how to compute"))
    _add_messages(parser.add_argument_group("messages"))
    parser.set_defaults(run=partial(each, run))


def input_options(parser: Any) -> None:
    """Add how an input is read."""
    _add_frames(parser)
    parser.add_argument("--format", metavar="NAME", help=_FORMAT)
    parser.add_argument("--progressive", action="store_true", help="take the frames of an interlaced file as whole")


def suffix_option(parser: Any) -> None:
    """Add the ending of files in an output folder."""
    suffix = "the ending of files in an output folder (default: that of the input)"
    parser.add_argument("--suffix", metavar=".EXT", type=_suffix, help=suffix)


def texts(text: str, examples: tuple[str, ...]) -> dict[str, Any]:
    """Return what argparse needs to list a command, and to end its help with examples."""
    return {
        "help": text,
        "description": f"{text[0].upper()}{text[1:]}.",
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "epilog": "examples:\n  " + "\n  ".join(examples),
    }


def _add_frames(parser: Any) -> None:
    text = "take frames A to B - 1, counted from 0"
    parser.add_argument("--frames", type=_frames, default=(0, None), metavar="A:B", help=text)


def quiet_option(parser: Any) -> None:
    """Add whether to tell of what is done."""
    parser.add_argument("--quiet", action="store_true", help="show no progress bar and no summary")


def _add_messages(parser: Any) -> None:
    quiet_option(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help=_VERBOSE)


def _add_computing(parser: Any) -> None:
    device = "cpu, cuda:0 or another GPU, or auto: the first GPU if there is one, else the CPU (default %(default)s)"
    parser.add_argument("--device", type=_device, default="cpu", metavar="auto|cpu|cuda:N", help=device)
    threads = "compute with this many threads (default: one for each core)"
    parser.add_argument("--threads", type=_threads, metavar="N", help=threads)


def _add_method(parser: Any) -> None:
    choices = [*METHODS, "none"]
    parser.add_argument("--flow", choices=choices, default=METHOD, help="how motion is measured (default %(default)s)")


def output_options(parser: Any) -> None:
    """Add how a video is written."""
    _add_codec(parser)
    text = "also write a picture of the middle frame: before | after | difference | flow"
    parser.add_argument("--preview", metavar="PNG", help=text)


def _add_codec(parser: Any) -> None:
    codec = "h264, hevc, vp9, av1, prores, ffv1 (lossless) ... (default: that of the input)"
    parser.add_argument("--codec", metavar="NAME", help=codec)
    crf = "quality of h264, hevc, vp9 and av1: 0 is best (default about 20)"
    parser.add_argument("--crf", type=int, metavar="N", help=crf)


# --- their values -----------------------------------------------------------------------------------
def _frames(text: str) -> tuple[int, int | None]:
    try:
        first, end = text.split(":")
        return int(first or 0), int(end) if end else None
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not A:B, such as 0:100, :100 or 100:") from None


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda:\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not auto, cpu, or cuda:0 and so on")
    return text


def _threads(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _suffix(text: str) -> str:
    if not text.startswith(".") or len(text) < 2 or "/" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not an ending such as .mkv")
    return text


def _target(text: str) -> str | int:
    if text in ("previous", "next"):
        return text
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not previous, next or the number of a frame")


def _sigma(text: str) -> Any:
    """Return a number, None for "auto", or a list of these."""
    return _each(text, "a number, three numbers such as 12,6,6, or auto", {"auto": None})


def _strength(text: str) -> Any:
    """Return a number or a list of numbers."""
    return _each(text, "a number, or three numbers such as 1,1.5,1.5", {})


def _each(text: str, expected: str, words: dict[str, None]) -> Any:
    try:
        numbers = [words[part] if part in words else float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}") from None
    return numbers if len(numbers) > 1 else numbers[0]
