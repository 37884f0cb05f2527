"""The commands that take video files: align, denoise, flow and compare."""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
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
    sigma = (
        "standard deviation of the noise in the file's own samples, on a scale of 0 to 255 whatever their depth: one "
        "number, or one each as Y,U,V (default: estimated for each plane, and reported)"
    )
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
    compare.add_argument("--format", help=_FORMAT)
    compare.set_defaults(run=_compare)


# --- arguments --------------------------------------------------------------------------------------
def _command(commands, name, run, text, examples):
    parser = commands.add_parser(name, help=text, **_texts(examples))
    parser.add_argument("input", help="a video file, or pictures by number as shot.%%04d.png")
    parser.add_argument(
        "-o", "--output", required=True, help="the file to write; one of this name is replaced at the end"
    )
    _add_frames(parser)
    parser.add_argument("--format", help=_FORMAT)
    parser.add_argument("--progressive", action="store_true", help="take frames that are interlaced as whole ones")
    parser.set_defaults(run=run)
    return parser


_FORMAT = (
    "FFmpeg's name of what the input is (default: it finds out); lists of other files, as hls, are read only by it"
)


def _texts(examples) -> dict:
    return {"formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": "examples:\n  " + "\n  ".join(examples)}


def _add_frames(parser):
    parser.add_argument("--frames", type=_frames, default=(0, None), metavar="A:B", help="frames A to B - 1, from 0 on")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, and no word of what was written")


def _add_flow(parser):
    parser.add_argument(
        "--flow", choices=["dis", "farneback", "none"], default="dis", help="optical flow (default dis)"
    )


def _add_output(parser):
    _add_codec(parser)
    parser.add_argument(
        "--preview", metavar="PNG", help="also write before | after | what is left | flow of the middle frame"
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
    if isinstance(args.to, str):
        return _convert(args, lambda frames: align_planes(frames, args.to, **options), 1, args.to)
    with _read(args, (args.to, args.to + 1)) as clip:
        (reference,) = clip.planes()
    return _convert(args, lambda frames: align_planes(frames, reference, **options), 0, reference)


def _denoise(args):
    options, noise = {"quality": args.quality, "radius": args.radius}, _Noise()
    given = None not in (args.sigma if isinstance(args.sigma, list) else [args.sigma])

    def function(frames):
        return denoise_planes(frames, args.sigma, **options, noted=None if given else noise.add)

    return _convert(args, function, shiftsearch.denoise_overlap(**options), noise=noise)


def _convert(args, function, overlap: int, onto="before", noise="") -> int:
    """The frames of the input, as they are in the file, through a function of iterators to the output and the preview.

    Args:
        function: of frames to as many frames, each of which depends on those up to `overlap` before and after
        onto: what a frame shall be like, for the preview: itself as it was, the "previous" or "next" one, or one frame
        noise: what is said of it at the end
    """
    watch = _Watch()
    with ExitStack() as stack:
        clip = stack.enter_context(_read(args, args.frames, overlap))
        out = stack.enter_context(io.write(args.output, clip, codec=args.codec, crf=args.crf))
        part = stack.enter_context(whole(args.preview, clip.path)) if args.preview is not None else None
        if part is not None and (same(args.preview, args.output) or part.suffix.lower() != ".png"):
            raise ShiftsearchError(f"{args.preview}: expected another name than --output that ends in .png")
        preview = _Preview(clip, onto)
        results = clip.kept(preview.after(function(preview.before(clip.planes()))))
        for frame in _progress(results, clip.length, args.quiet):
            out.write(frame)
        if part is not None:
            part.write_bytes(png(preview.picture()))
    return _end(args, clip, out, watch, noise)


def _read(args, frames, overlap=0):
    """The input up to where it is broken."""
    return io.read(args.input, frames, overlap=overlap, format=args.format, progressive=args.progressive, salvage=True)


def _flow(args):
    method, watch = getattr(shiftsearch.flow, args.flow), _Watch()
    with ExitStack() as stack:
        clip = stack.enter_context(_read(args, args.frames))
        if Path(args.output).suffix.lower() == ".npy":
            out = stack.enter_context(_npy(args.output, clip.path))
        else:
            out = stack.enter_context(io.write(args.output, clip, codec=args.codec, crf=args.crf))
        longest = clip.width / 32 if args.longest is None else args.longest
        for motion in _progress(starmap(method, pairwise(clip)), clip.length and clip.length - 1, args.quiet):
            colours = shiftsearch.flow.to_color(motion, longest=longest)
            out.write(motion if isinstance(out, _Npy) else colours)
        if not out.count:
            raise ShiftsearchError(f"{clip.path}: has one frame, expected two at least, between which there is motion")
    return _end(args, clip, out, watch)


@contextmanager
def _npy(path, read):
    """A .npy file of arrays of one shape, however many there will be."""
    with whole(path, read) as part, part.open("wb") as file:
        out = _Npy(path, file)
        yield out
        out.finish()


class _Npy:
    left_out = ()

    def __init__(self, path, file):
        self.path, self._file, self.count = path, file, 0

    def write(self, array):
        if not self.count:
            self._kind, self._shape = array.dtype.str, array.shape
            self._head()
        self.count += 1
        self._file.write(array.tobytes())

    def finish(self):
        self._file.seek(0)
        self._head()

    def _head(self):
        """NumPy leaves room in the header for more digits of the first axis."""
        about = {"descr": self._kind, "fortran_order": False, "shape": (self.count, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, about)


# --- what is said -----------------------------------------------------------------------------------
def _end(args, clip, out, watch: _Watch, noise="") -> int:
    """What is good to know, and the exit code: 1 if a part of the input is missing in the result."""
    remarks = []
    if clip.damaged:
        remarks.append(
            f"{clip.path}: frames that are damaged, and were taken as the decoder mended them: {clip.damaged}"
        )
    if clip.interlaced and not args.progressive:
        remarks.append(f"{clip.path}: frames that are interlaced, and were taken as whole ones: {clip.interlaced}")
    if out.left_out:
        remarks.append(f"{out.path}: left out: {', '.join(out.left_out)}")
    if clip.broken:
        remarks.append(f"shiftsearch {args.command}: {clip.broken}; the result ends there")
    if not args.quiet:
        remarks.append(f"written: {out.path}, {out.count} frame{'s' * (out.count != 1)}, {watch}{noise}")
    for remark in remarks:
        print(remark, file=sys.stderr)
    return int(clip.broken is not None)


class _Watch:
    """How long a command takes, and how much of that it takes once only."""

    def __init__(self):
        self._begin, self._before = time.monotonic(), self._compiling()

    def __str__(self):
        seconds = self._compiling() - self._before
        once = f", of which compiling kernels took {seconds:.1f} s, once" if seconds else ""
        return f"{time.monotonic() - self._begin:.1f} s{once}"

    @staticmethod
    def _compiling() -> float:
        jit = sys.modules.get("shiftsearch.backends.cpu.jit")  # not there if nothing was searched
        return jit.compiling() if jit is not None else 0.0


class _Noise:
    """What was found in each frame, a standard deviation for each plane on the scale 0..1, as a mean."""

    def __init__(self):
        self._total, self._count = 0.0, 0

    def add(self, levels):
        self._total, self._count = self._total + 255 * np.array(levels), self._count + 1

    def __str__(self):
        if not self._count:
            return ""
        names = ("Y ", "U ", "V ") if len(self._total) == 3 else ("",)
        means = zip(names, self._total / self._count, strict=True)
        return ", noise found: " + ", ".join(f"{name}{level:.1f}" for name, level in means)


def _progress(items, total, quiet):
    try:
        from tqdm import tqdm
    except ImportError:
        raise ShiftsearchError('the progress bar needs tqdm: pip install "shiftsearch[video]"') from None
    return tqdm(items, total=total, unit="frame", disable=True if quiet else None)  # None: unless it is a terminal


# --- preview ----------------------------------------------------------------------------------------
class _Preview:
    """Keeps the frames around the middle as they pass, before and after."""

    def __init__(self, clip, onto):
        self._clip, self._onto = clip, onto
        self._middle = clip.before + (clip.length or 0) // 2
        self._frames, self._after, self._number = deque(maxlen=3), None, 0

    def before(self, frames):
        for number, frame in enumerate(frames):
            if number <= self._middle + 1:
                self._frames.append((number, frame))
            yield frame

    def after(self, frames):
        for number, frame in enumerate(frames):
            if number <= self._middle:
                self._after, self._number = frame, number
            yield frame

    def picture(self):
        """Before | after | what is left | flow from the frame that it is compared with, or else the one before."""
        frames = dict(self._frames)
        before = frames[self._number]
        beside = self._number + (1 if self._onto == "next" else -1)
        onto = frames.get(beside, before) if isinstance(self._onto, str) else self._onto
        wanted = before if self._onto == "before" else onto
        before, after, wanted, onto = map(self._clip.picture, (before, self._after, wanted, onto))
        return before_and_after(before, after, wanted, shiftsearch.flow.to_color(shiftsearch.flow.dis(onto, before)))


# --- compare ----------------------------------------------------------------------------------------
def _compare(args):
    options = {"format": args.format, "progressive": True}
    with io.read(args.a, args.frames, **options) as a, io.read(args.b, args.frames, **options) as b:
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
        raise ShiftsearchError(f"frames have {one.shape[1]} x {one.shape[0]} pixels, expected at least 3 x 3 for SSIM")
    with np.errstate(divide="ignore"):  # equal frames: infinite
        psnr = peak_signal_noise_ratio(one, other, data_range=1)
    channels = -1 if one.ndim == 3 else None
    return psnr, structural_similarity(
        one, other, data_range=1, win_size=min(7, side - 1 + side % 2), channel_axis=channels
    )
