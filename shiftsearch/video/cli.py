"""The commands that take video files: align, denoise, flow and compare."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack, contextmanager
from itertools import pairwise, starmap, zip_longest
from pathlib import Path

import numpy as np

import shiftsearch
from shiftsearch.errors import ShiftsearchError
from shiftsearch.video import io
from shiftsearch.video.align import align_planes
from shiftsearch.video.denoise import denoise_planes
from shiftsearch.video.files import same, whole
from shiftsearch.video.picture import before_and_after, png


def add_commands(commands) -> None:
    """Adds each command to argparse's `commands`, with the function that runs it as `run`."""
    align = _command(commands, "align", _align, "move each frame onto its neighbour, or all of them onto one", (
        "shiftsearch align shaky.mp4 -o onto-first.mp4 --to 0",
        "shiftsearch align in.mkv -o out.mkv --to next --window 13 --codec ffv1",
        "shiftsearch align in.mp4 -o out.mp4 --frames 100:200 --preview look.png",
    ))  # fmt: skip
    to = "what each frame is moved onto: the one before, the one after, or frame N (default previous)"
    align.add_argument("--to", default="previous", metavar="previous|next|N", type=_target, help=to)
    align.add_argument("--window", type=int, help="side of the window around the flow that is searched (default 9)")
    align.add_argument("--patch", type=int, help="side of the patches that are compared (default 3)")
    _add_flow(align)
    _add_output(align)

    denoise = _command(commands, "denoise", _denoise, "remove noise, with the help of the frames before and after", (
        "shiftsearch denoise noisy.mp4 -o clean.mp4",
        "shiftsearch denoise in.mov -o out.mkv --sigma 12,6,6 --quality high --codec ffv1",
        "shiftsearch denoise in.mp4 -o try.mp4 --frames 0:50 --preview look.png",
    ))  # fmt: skip
    sigma = "standard deviation of the noise in the planes of the file as they are, which have numbers of 0 to 255, or as " \
        "much more as they are deeper: one for all, or Y,U,V (default: estimated for each plane, and told)"
    denoise.add_argument("--sigma", type=_sigma, metavar="N|Y,U,V", help=sigma)
    denoise.add_argument("--quality", choices=["fast", "high"], default="fast", help="default fast")
    denoise.add_argument("--radius", type=int, default=2, help="frames that are used each way (default 2)")
    _add_output(denoise)

    flow = _command(commands, "flow", _flow, "the motion from each frame to the next, in colours or as numbers", (
        "shiftsearch flow in.mp4 -o motion.mp4",
        "shiftsearch flow in.mp4 -o motion.npy    # (T - 1, 2, H, W): dx, dy in pixels",
    ))  # fmt: skip
    flow.add_argument("--longest", type=float, metavar="PIXELS", help="motion of full colour (default: width / 32)")
    _add_flow(flow)
    _add_codec(flow)

    compare = commands.add_parser("compare", help="PSNR and SSIM of one file against another", **_texts((
        "shiftsearch compare original.mp4 denoised.mp4",
        "shiftsearch compare original.mp4 denoised.mp4 --frames 0:50",
    )))  # fmt: skip
    compare.add_argument("a", help="a video file, or a picture")
    compare.add_argument("b", help="another one of the same size")
    _add_frames(compare)
    compare.set_defaults(run=_compare)


# --- arguments --------------------------------------------------------------------------------------
def _command(commands, name, run, text, examples):
    parser = commands.add_parser(name, help=text, **_texts(examples))
    parser.add_argument("input", help="a video file, or pictures by number as shot.%%04d.png")
    parser.add_argument(
        "-o", "--output", required=True, help="the file to write; one of this name is replaced at the end"
    )
    _add_frames(parser)
    parser.set_defaults(run=run)
    return parser


def _texts(examples) -> dict:
    return {"formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": "examples:\n  " + "\n  ".join(examples)}


def _add_frames(parser):
    parser.add_argument("--frames", type=_frames, default=(0, None), metavar="A:B", help="frames A to B - 1, from 0 on")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_flow(parser):
    parser.add_argument(
        "--flow", choices=["dis", "farneback", "none"], default="dis", help="optical flow (default dis)"
    )


def _add_output(parser):
    _add_codec(parser)
    parser.add_argument(
        "--preview", metavar="PNG", help="also write before | after | difference | flow of the middle frame"
    )


def _add_codec(parser):
    parser.add_argument("--codec", help="h264, hevc, vp9, av1, prores, ffv1 (no loss) ... (default: that of the input)")
    parser.add_argument("--crf", type=int, help="quality of h264, hevc, vp9 and av1, 0 is best (default about 20)")


def _frames(text: str) -> tuple[int, int | None]:
    try:
        first, end = text.split(":")
        return int(first or 0), int(end) if end else None
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not A:B, as 0:100, :100 or 100:") from None


def _target(text: str):
    if text in ("previous", "next"):
        return text
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not previous, next or the number of a frame")


def _sigma(text: str):
    """A number, None for auto, or a list of these."""
    try:
        numbers = [None if part == "auto" else float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, nor three as 12,6,6, nor auto") from None
    return numbers if len(numbers) > 1 else numbers[0]


# --- commands ---------------------------------------------------------------------------------------
def _align(args):
    options = {name: getattr(args, name) for name in ("window", "patch") if getattr(args, name) is not None}
    options["flow"] = None if args.flow == "none" else args.flow
    if not isinstance(args.to, str):
        with io.read(args.input, (args.to, args.to + 1)) as clip:
            (args.to,) = clip.planes()
    _convert(args, lambda frames: align_planes(frames, args.to, **options))


def _denoise(args):
    total, count = 0.0, 0

    def noted(levels):
        nonlocal total, count
        total, count = total + 255 * np.array(levels), count + 1

    _convert(args, lambda frames: denoise_planes(frames, args.sigma, quality=args.quality, radius=args.radius, noted=noted))
    if None in (args.sigma if isinstance(args.sigma, list) else [args.sigma]):
        names = ("Y ", "U ", "V ") if len(total) == 3 else ("",)
        found = ", ".join(f"{name}{level:.1f}" for name, level in zip(names, total / count, strict=True))
        print(f"noise found: {found}", file=sys.stderr)


def _convert(args, function):
    """The frames of the input, as they are in the file, through a function of iterators to the output and the preview."""
    with ExitStack() as stack:
        clip = stack.enter_context(io.read(args.input, args.frames))
        out = stack.enter_context(io.write(args.output, clip, codec=args.codec, crf=args.crf))
        part = stack.enter_context(whole(args.preview, clip.path)) if args.preview is not None else None
        if part is not None and (same(args.preview, args.output) or part.suffix.lower() != ".png"):
            raise ShiftsearchError(f"{args.preview}: expected another name than --output that ends in .png")
        preview = _Preview(clip)
        for frame in _progress(preview.after(function(preview.before(clip.planes()))), clip.length, args.quiet):
            out.write(frame)
        if part is not None:
            part.write_bytes(png(preview.picture()))
    _remark(clip, out)


def _flow(args):
    method = getattr(shiftsearch.flow, args.flow)
    with ExitStack() as stack:
        clip = stack.enter_context(io.read(args.input, args.frames))
        if Path(args.output).suffix.lower() == ".npy":
            out = stack.enter_context(_npy(args.output, clip.path))
        else:
            out = stack.enter_context(io.write(args.output, clip, codec=args.codec, crf=args.crf))
        count = 0
        longest = clip.width / 32 if args.longest is None else args.longest
        for motion in _progress(starmap(method, pairwise(clip)), clip.length and clip.length - 1, args.quiet):
            colours = shiftsearch.flow.to_color(motion, longest=longest)
            out.write(motion if isinstance(out, _Npy) else colours)
            count += 1
        if not count:
            raise ShiftsearchError(f"{clip.path}: has one frame, expected two at least, between which there is motion")
    _remark(clip, out)


@contextmanager
def _npy(path, read):
    """A .npy file of arrays of one shape, however many there will be."""
    with whole(path, read) as part, part.open("wb") as file:
        out = _Npy(file)
        yield out
        out.finish()


class _Npy:
    left_out = ()

    def __init__(self, file):
        self._file, self._count = file, 0

    def write(self, array):
        if not self._count:
            self._kind, self._shape = array.dtype.str, array.shape
            self._head()
        self._count += 1
        self._file.write(array.tobytes())

    def finish(self):
        self._file.seek(0)
        self._head()

    def _head(self):
        """NumPy leaves room in the header for more digits of the first axis."""
        about = {"descr": self._kind, "fortran_order": False, "shape": (self._count, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, about)


def _remark(clip, out):
    """What is no error, but good to know."""
    if clip.damaged:
        print(
            f"{clip.path}: frames that are damaged, and were taken as the decoder mended them: {clip.damaged}",
            file=sys.stderr,
        )
    if out.left_out:
        print(f"{out.path}: such a file cannot hold {' and '.join(out.left_out)}, left out", file=sys.stderr)


def _progress(items, total, quiet):
    try:
        from tqdm import tqdm
    except ImportError:
        raise ShiftsearchError('the progress bar needs tqdm: pip install "shiftsearch[video]"') from None
    return tqdm(items, total=total, unit="frame", disable=True if quiet else None)  # None: unless it is a terminal


# --- preview ----------------------------------------------------------------------------------------
class _Preview:
    """Keeps the frames of the middle as they pass, before and after."""

    def __init__(self, clip):
        self._clip, self._middle = clip, (clip.length or 0) // 2
        self._previous = self._before = self._after = None

    def before(self, frames):
        for number, frame in enumerate(frames):
            if number <= self._middle:
                self._previous, self._before = self._before, frame
            yield frame

    def after(self, frames):
        for number, frame in enumerate(frames):
            if number <= self._middle:
                self._after = frame
            yield frame

    def picture(self):
        """Before | after | difference | flow from the frame before."""
        kept = self._before if self._previous is None else self._previous, self._before, self._after
        previous, before, after = map(self._clip.picture, kept)
        return before_and_after(before, after, shiftsearch.flow.to_color(shiftsearch.flow.dis(previous, before)))


# --- compare ----------------------------------------------------------------------------------------
def _compare(args):
    with io.read(args.a, args.frames) as a, io.read(args.b, args.frames) as b:
        if (a.width, a.height) != (b.width, b.height):
            raise ShiftsearchError(f"{b.path}: is {b.width} x {b.height}, expected {a.width} x {a.height} as {a.path}")
        scores = [_score(*pair) for pair in _progress(_pairs(a, b), a.length, args.quiet)]
    print(f"{len(scores)} frames of {a.width} x {a.height}\n\n{'':10} {'mean':>8} {'least':>8}   in frame")
    for name, values, digits in zip(("PSNR in dB", "SSIM"), np.transpose(scores), (2, 4), strict=True):
        worst = int(values.argmin())
        print(f"{name:10} {values.mean():8.{digits}f} {values[worst]:8.{digits}f}   {worst + a.first}")


def _pairs(a, b):
    for number, (one, other) in enumerate(zip_longest(a, b)):
        if one is None or other is None:
            short, long = (a, b) if one is None else (b, a)
            raise ShiftsearchError(
                f"{short.path}: ends after {number} frames, expected as many as {long.path}, or --frames :{number}"
            )
        yield one, other


def _score(one, other) -> tuple[float, float]:
    try:
        from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    except ImportError as error:
        raise ShiftsearchError(f'compare needs scikit-image: pip install "shiftsearch[video]" ({error})') from None
    one, other = (frame / np.float32(np.iinfo(frame.dtype).max) for frame in (one, other))
    if one.ndim != other.ndim:  # a grey frame against one in colour
        one, other = (frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, -1) for frame in (one, other))
    side = min(one.shape[:2])
    if side < 3:
        raise ShiftsearchError(
            f"frames have {one.shape[1]} x {one.shape[0]} pixels, expected at least 3 x 3 for SSIM"
        )
    with np.errstate(divide="ignore"):  # equal frames: infinite
        psnr = peak_signal_noise_ratio(one, other, data_range=1)
    channels = -1 if one.ndim == 3 else None
    return psnr, structural_similarity(
        one, other, data_range=1, win_size=min(7, side - 1 + side % 2), channel_axis=channels
    )
