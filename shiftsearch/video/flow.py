"""Flow: where things went between two frames, measured, adapted, checked and looked at.

One convention. A flow is an array (2, H, W), or (T, 2, H, W) for clips, in pixels; channel 0 is dx (to the right),
channel 1 is dy (down), and it leads from the reference to the target:

    reference[y, x] ~ target[y + dy, x + dx]

Coarser flow, (2, h, w), is as good wherever this package searches around it: see `coarse`.
"""

from __future__ import annotations

import importlib
from typing import NamedTuple

import numpy as np

from shiftsearch._arrays import transform
from shiftsearch.errors import ShiftsearchError
from shiftsearch.ops.aggregate import aggregate
from shiftsearch.ops.flow import upsample_flow
from shiftsearch.video.frames import DTYPES, WHITE, layout, planar


# --- measured ---------------------------------------------------------------------------------------
def dis(reference, target, *, sigma=None):
    """Flow by dense inverse search, OpenCV's DIS: quick (0.5 s for a megapixel), on the CPU.

    Args:
        reference: a frame or a clip, see `shiftsearch.video.frames`
        target: the same; one frame goes with every frame of a clip
        sigma: standard deviation of the noise of 255 for whole numbers, of 1 for floats, if there is some:
            the frames are then blurred by sigma / 20 pixels for 0..255, and at least 1, before they are compared

    Returns:
        flow (2, H, W), or (T, 2, H, W) if one of them is a clip, float32, of the same array library

    Example:
        >>> y, x = np.mgrid[:64, :80]
        >>> here, there = (128 + 60 * np.sin((x - s) / 5) + 60 * np.cos(y / 7 + x / 9) for s in (0, 2))
        >>> found = dis(here.astype(np.uint8), here.astype(np.uint8))
        >>> found.shape, float(abs(found).max()) < 0.1
        ((2, 64, 80), True)
    """
    return _measured("dis", reference, target, sigma)


def farneback(reference, target, *, sigma=None):
    """Flow by polynomial expansion, OpenCV's Farneback: smooth, on the CPU.

    Args:
        reference, target, sigma: as in `dis`

    Returns:
        as `dis`

    Example:
        >>> farneback(np.zeros((3, 48, 64), np.uint8), np.zeros((48, 64), np.uint8)).shape
        (3, 2, 48, 64)
    """
    return _measured("farneback", reference, target, sigma)


def none(reference, target):
    """No motion: zeros.

    Args:
        reference, target: as in `dis`

    Returns:
        flow of the shape that `dis` gives

    Example:
        >>> none(np.zeros((48, 64, 3)), np.zeros((48, 64, 3))).shape
        (2, 48, 64)
    """
    return _pairwise("flow.none", lambda xp, a, b: xp.zeros((len(a), 2, *a.shape[2:]), np.float32), reference, target)


_MOST_BLUR = 16.0  # pixels
_LEAST = 32  # pixels per side: smaller frames are continued for OpenCV


def _dis(cv2, a, b):
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(a, b, None)


def _farneback(cv2, a, b):
    return cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 5, 15, 3, 7, 1.5, 0)


METHODS = {"dis": _dis, "farneback": _farneback}


def measure(op: str, xp, method: str, reference, target, level: float):
    """Flow (2, H, W) between two frames (C, H, W) on the scale 0..1 with noise of this standard deviation."""
    if xp is not np:
        raise ShiftsearchError(
            f"{op}: the frames are on a GPU, expected in main memory: OpenCV measures flow on the CPU. "
            "Give flow of another method as an array"
        )
    cv2 = _opencv(op)
    blur = min(max(1.0, level * 255 / 20), _MOST_BLUR) if level else 0.0
    found = METHODS[method](cv2, *(_as_opencv_wants(cv2, frame, blur) for frame in (reference, target)))
    return np.ascontiguousarray(found.transpose(2, 0, 1)[:, : reference.shape[1], : reference.shape[2]])


def _measured(method: str, reference, target, sigma):
    op = f"flow.{method}"
    level = 0.0 if sigma is None else noise_scale(op, sigma, reference)

    def natively(xp, reference, target):
        return xp.stack([measure(op, xp, method, *pair, level) for pair in zip(reference, target, strict=True)])

    return _pairwise(op, natively, reference, target)


def noise_scale(op: str, sigma, frames) -> float:
    """`sigma`, of 255 for whole numbers of any depth and of 1 for floats, on the scale 0..1."""
    fits = isinstance(sigma, (int, float, np.number)) and not isinstance(sigma, bool) and 0 <= sigma <= 1e6
    if not fits:
        raise ShiftsearchError(f"{op}: sigma is {sigma!r}, expected a number from 0 to 1e6, or None")
    whole = str(getattr(frames, "dtype", "")).rpartition(".")[2] in WHITE
    return float(sigma) / (255 if whole else 1)


def _opencv(op: str):
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise ShiftsearchError(
            f'{op}: OpenCV is missing ({error}), expected it from: pip install "shiftsearch[video]"'
        ) from None


def _as_opencv_wants(cv2, frame, blur: float):
    """(C, H, W) on the scale 0..1 as grey of 8 bits."""
    grey = np.tensordot(np.float32([0.299, 0.587, 0.114]), frame[:3], 1) if len(frame) > 2 else frame[0]
    grey = np.rint(255 * np.fmin(np.fmax(grey, 0), 1)).astype(np.uint8)
    height, width = grey.shape
    grey = np.pad(grey, ((0, max(0, _LEAST - height)), (0, max(0, _LEAST - width))), mode="edge")
    return cv2.GaussianBlur(grey, (0, 0), blur) if blur else np.ascontiguousarray(grey)


def _pairwise(op: str, function, reference, target, **others):
    """`function(xp, reference, target, *others)` of equally long clips, (T, C, H, W); without the axis T for two frames."""

    def natively(xp, *arrays):
        a, b = (planar(op, name, array) for name, array in zip(("reference", "target"), arrays, strict=False))
        if a.shape[1:] != b.shape[1:] or (len(a) != len(b) and 1 not in (len(a), len(b))):
            raise ShiftsearchError(
                f"{op}: target has shape {tuple(arrays[1].shape)}, expected that of reference, {tuple(arrays[0].shape)}, "
                "or one frame for many"
            )
        frames = max(len(a), len(b))
        found = function(xp, *(xp.broadcast_to(x, (frames, *x.shape[1:])) for x in (a, b)), *arrays[2:])
        return found if any(layout(op, "frames", x.shape)[1] for x in arrays[:2]) else found[0]

    return transform(op, natively, DTYPES, reference=reference, target=target, **others)


# --- adapted ----------------------------------------------------------------------------------------
def from_skimage(v, u):
    """Flow of scikit-image: `from_skimage(*optical_flow_tvl1(reference, target))`.

    Args:
        v: displacement of rows (H, W), or (T, H, W)
        u: displacement of columns, the same shape

    Returns:
        flow (2, H, W), or (T, 2, H, W)

    Example:
        >>> v, u = np.full((2, 4, 5), [[[1.0]], [[2.0]]])
        >>> from_skimage(v, u)[:, 0, 0]  # dx, dy
        array([2., 1.])
    """
    if tuple(getattr(v, "shape", ())) != tuple(getattr(u, "shape", ())):
        raise ShiftsearchError(f"flow.from_skimage: u has shape {tuple(u.shape)}, expected that of v, {tuple(v.shape)}")
    return transform("flow.from_skimage", lambda xp, v, u: xp.stack([u, v], -3), v=v, u=u)


def from_raft(flow, size=None):
    """Flow of RAFT and its relatives, in torchvision, ptlflow and elsewhere: the last of its predictions.

    Args:
        flow: (2, h, w) or (T, 2, h, w), in pixels of the frames that the network saw; or a list of such, of which
            the last is the best
        size: (H, W) of the frames, if they were resized for the network: the flow is resized and its vectors with it

    Returns:
        flow (2, H, W), or (T, 2, H, W)

    Example:
        >>> predictions = [np.zeros((1, 2, 128, 160)), np.ones((1, 2, 128, 160))]
        >>> flow = from_raft(predictions, size=(120, 160))
        >>> flow.shape, float(flow[0, 0, 0, 0]), float(flow[0, 1, 0, 0])
        ((1, 2, 120, 160), 1.0, 0.9375)
    """
    if isinstance(flow, (list, tuple)):
        if not flow:
            raise ShiftsearchError("flow.from_raft: flow is an empty list, expected predictions")
        flow = flow[-1]
    flow = transform("flow.from_raft", lambda xp, array: checked("flow.from_raft", "flow", array).copy(), flow=flow)
    return flow if size is None else upsample_flow(flow, size)


def coarse(flow, factor=8):
    """The mean flow of each `factor` x `factor` pixels, in pixels of that size: 1 / factor**2 of the memory.

    `shiftsearch.upsample_flow` is the way back, and `align` goes it by itself.

    Args:
        flow: (2, H, W), or (T, 2, H, W); vectors that are not finite count as 0
        factor: pixels per side; at the far edges, what is left

    Returns:
        flow (2, h, w), or (T, 2, h, w), with h = ceil(H / factor)

    Example:
        >>> flow = np.full((2, 100, 64), 4.0, np.float32)
        >>> coarse(flow).shape, float(coarse(flow)[0, 3, 2])
        ((2, 13, 8), 0.5)
    """
    if isinstance(factor, bool) or not hasattr(factor, "__index__") or not 1 <= factor <= 1024:
        raise ShiftsearchError(f"flow.coarse: factor is {factor!r}, expected a whole number from 1 to 1024")

    def natively(xp, array):
        array = _finite(xp, checked("flow.coarse", "flow", array))
        (h, w), (H, W) = (-(-n // factor) for n in array.shape[-2:]), array.shape[-2:]
        rows, columns = (xp.asarray(_cells(n, m)) for n, m in ((H, h), (W, w)))
        scale = xp.asarray([w / W, h / H])[:, None, None]
        return (rows @ array @ columns.T * scale).astype(array.dtype)

    return transform("flow.coarse", natively, flow=flow)


def _cells(fine: int, cells: int) -> np.ndarray:
    """(cells, fine): the share of each pixel in the mean of a cell, where `cells` of equal length span `fine` pixels."""
    ends, pixel = np.arange(cells + 1) * (fine / cells), np.arange(fine)
    shared = np.minimum(ends[1:, None], pixel + 1) - np.maximum(ends[:-1, None], pixel)
    return np.maximum(shared, 0) * (cells / fine)


def checked(op: str, name: str, flow):
    if flow.dtype.kind != "f":
        raise ShiftsearchError(f"{op}: {name} is {flow.dtype.name}, expected floats")
    if flow.ndim not in (3, 4) or flow.shape[-3] != 2 or 0 in flow.shape:
        hint = ""
        if flow.ndim in (3, 4) and flow.shape[-1] == 2:
            hint = ": OpenCV's (H, W, 2) becomes that by " + "np.moveaxis(flow, -1, -3)"
        raise ShiftsearchError(f"{op}: {name} has shape {tuple(flow.shape)}, expected (2, H, W) or (T, 2, H, W){hint}")
    return flow


def _finite(xp, flow):
    return xp.where(xp.isfinite(flow).all(-3, keepdims=True), flow, 0)


# --- checked ----------------------------------------------------------------------------------------
class Check(NamedTuple):
    """What `check` found. As a string it is the message."""

    ok: bool
    message: str
    gains: dict[str, float]  # dB that each repair would bring

    def __str__(self):
        return self.message


def check(reference, target, flow) -> Check:
    """Whether a flow is in this package's convention: warps the target by it, and by what it may be mistaken for.

    Args:
        reference, target: frames or clips, as in `dis`
        flow: (2, H, W), or (T, 2, H, W), from reference to target; or a coarser one

    Returns:
        (ok, message, gains). The message says in words what the flow looks like. The gains say by how many dB the
        difference between the reference and the warped target would shrink if the flow were negated, its channels
        swapped, or scaled. It is not ok if one of them brings 1 dB or more; ok too if nothing can be told

    Example:
        >>> y, x = np.mgrid[:48, :64]
        >>> here, there = (0.5 + 0.2 * np.sin((x - s) / 3) + 0.2 * np.cos((y + s) / 4) for s in (0, 3))
        >>> flow = np.zeros((2, 48, 64))
        >>> flow[0], flow[1] = 3, -3
        >>> print(check(here, there, flow))
        flow looks right: it brings the target 44.7 dB closer to the reference than no motion does
        >>> print(check(here, there, -flow))
        flow looks inverted (it leads from the target to the reference): negating it brings 49.9 dB
    """
    gains, share = {}, {}

    def natively(xp, a, b, flow):
        full = _finite(xp, _at_size("flow.check", "flow", flow, len(a), a.shape[-2:])).astype(a.dtype)
        full = xp.broadcast_to(full, (len(a), *full.shape[1:]))
        with np.errstate(over="ignore", invalid="ignore"):  # vectors that are too long as they are
            found = {name: _difference(xp, a, b, repair(xp, full)) for name, (repair, _, _) in _REPAIRS.items()}
        error, share["inside"] = found["itself"]
        for name, (repaired, inside) in found.items():
            gains[name] = 10 * float(np.log10((error + _SMALL) / (repaired + _SMALL))) if inside > _FEW else 0.0
        return a  # what counts are the gains

    _pairwise("flow.check", natively, reference, target, flow=flow)
    motion = -gains.pop("no motion")
    del gains["itself"]
    best = max(gains, key=gains.get)
    if gains[best] >= max(1, 1 - motion):
        _, looks, repair = _REPAIRS[best]
        return Check(False, f"flow looks {looks}: {repair} brings {gains[best]:.1f} dB", gains)
    if share["inside"] <= _FEW:
        return Check(False, "flow looks wrong: it leads out of the frame nearly everywhere", gains)
    verdict = "flow looks right" if motion > 0.5 else "flow cannot be told right from wrong"
    verdict = verdict if motion > -1 else "flow looks wrong, and no repair that is tried here helps"
    than = f"{'closer to' if motion >= 0 else 'farther from'} the reference than no motion does"
    return Check(motion > -1, f"{verdict}: it brings the target {abs(motion):.1f} dB {than}", gains)


def _scaled(by_x, by_y=None):
    """Flow with dx and dy multiplied, by numbers or by shares of the frame's size."""

    def repair(xp, flow):
        H, W = flow.shape[-2:]
        dx, dy = (by_x * W, by_x * H) if by_y is None else (by_x, by_y)
        return flow * xp.asarray([dx, dy], flow.dtype)[:, None, None]

    return repair


_OTHER_GRID = "mis-scaled (vectors in pixels of another resolution)"
_REPAIRS = {  # name: (repair, what the flow looks like, what the repair is)
    "itself": (_scaled(1, 1), "", ""),
    "no motion": (_scaled(0, 0), "", ""),
    "negated": (_scaled(-1, -1), "inverted (it leads from the target to the reference)", "negating it"),
    "swapped": (lambda xp, f: f[:, ::-1], "transposed (dy before dx)", "swapping its channels"),
    "swapped and negated": (
        lambda xp, f: -f[:, ::-1], "transposed and inverted", "swapping its channels and negating it",
    ),
    "rows and columns swapped": (
        lambda xp, f: f.swapaxes(-1, -2) if f.shape[-1] == f.shape[-2] else f,
        "transposed (x before y in the array)", "swapping its rows and columns",
    ),
    "dx negated": (_scaled(-1, 1), "mirrored (dx to the left)", "negating dx"),
    "dy negated": (_scaled(1, -1), "mirrored (dy upwards)", "negating dy"),
    "from -1..1": (_scaled(0.5), "normalised to -1..1", "multiplying dx by W / 2 and dy by H / 2"),
    "from 0..1": (_scaled(1.0), "normalised to 0..1", "multiplying dx by W and dy by H"),
    **{
        f"times {factor:g}": (_scaled(factor, factor), _OTHER_GRID, f"multiplying it by {factor:g}")
        for factor in (2, 4, 8, 16, 0.5, 0.25, 0.125)
    },
}  # fmt: skip
_FEW = 0.05  # of all pixels
_SMALL = 1e-6  # squared difference that nobody sees: 0.001 of white


def _difference(xp, reference, target, flow) -> tuple[float, float]:
    """Mean squared difference where the flow stays inside the frame, and the share of pixels where it does.

    If that is next to nothing, it is the difference everywhere.
    """
    squared = ((warped(xp, target, flow) - reference) ** 2).mean(1)
    inside = _inside(xp, flow)
    share = float(inside.mean())
    return float(squared[inside].mean() if share > _FEW else squared.mean()), share


def _inside(xp, flow):
    """Where flow (T, 2, H, W) leads into the frame."""
    H, W = flow.shape[-2:]
    x, y = xp.arange(W) + flow[:, 0], xp.arange(H)[:, None] + flow[:, 1]
    return (x >= 0) & (x <= W - 1) & (y >= 0) & (y <= H - 1)


def warped(xp, target, flow):
    """target[y + dy, x + dx] of (T, C, H, W), bilinear, mirrored beyond the border."""
    offsets = xp.zeros((1, *flow.shape[:1], *flow.shape[2:], 1, 3), "float32")
    offsets[0, ..., 0, 1], offsets[0, ..., 0, 2] = flow[:, 1], flow[:, 0]
    return aggregate(target, xp.ones(offsets.shape[:-1], target.dtype), offsets)


def _at_size(op: str, name: str, flow, frames: int, size):
    """Flow as (T, 2, H, W), upsampled if it is coarser."""
    shape, (H, W) = tuple(checked(op, name, flow).shape), size
    flow = flow[None] if flow.ndim == 3 else flow
    if len(flow) not in (1, frames) or shape[-2] > H or shape[-1] > W:
        hint = ": its rows and columns look swapped" if shape[-2:] == (W, H) else ""
        raise ShiftsearchError(
            f"{op}: {name} has shape {shape}, expected ({frames}, 2, {H}, {W}), (2, {H}, {W}) or coarser{hint}"
        )
    return flow if shape[-2:] == (H, W) else upsample_flow(flow, (H, W))


def consistency(forward, backward, *, tolerance=1.0):
    """Where the way there and back ends where it began: elsewhere things are hidden, or the flow is wrong.

    Args:
        forward: flow from one frame to another, (2, H, W), or (T, 2, H, W)
        backward: flow from the other to the one, the same shape
        tolerance: pixels between start and end

    Returns:
        mask (H, W), or (T, H, W), of bool: False too where the flow leads out of the frame or is not finite

    Example:
        >>> forward = np.zeros((2, 4, 6), np.float32)
        >>> forward[0] = 2
        >>> consistency(forward, -forward)[0]
        array([ True,  True,  True,  True, False, False])
    """
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float, np.number)) or not tolerance >= 0:
        raise ShiftsearchError(f"flow.consistency: tolerance is {tolerance!r}, expected a number from 0")

    def natively(xp, forward, backward):
        there, back = (checked("flow.consistency", *pair) for pair in (("forward", forward), ("backward", backward)))
        if there.shape != back.shape:
            raise ShiftsearchError(
                f"flow.consistency: backward has shape {tuple(back.shape)}, expected {tuple(there.shape)} as forward has"
            )
        there, back = (x.reshape(-1, *x.shape[-3:]).astype("float32") for x in (there, back))
        finite = xp.isfinite(there).all(1)
        there = _finite(xp, there)
        with np.errstate(invalid="ignore", over="ignore"):
            apart = ((there + warped(xp, back, there)) ** 2).sum(1)
            mask = finite & _inside(xp, there) & (apart <= tolerance**2)
        return mask.reshape(*forward.shape[:-3], *forward.shape[-2:])

    return transform("flow.consistency", natively, forward=forward, backward=backward)


# --- looked at --------------------------------------------------------------------------------------
def to_color(flow, *, longest=None):
    """A picture of a flow: the hue is the direction (red is right, cyan left), the paler the slower.

    Args:
        flow: (2, H, W), or (T, 2, H, W)
        longest: pixels that have full colour; what is faster is darker. By default the longest vector there is

    Returns:
        RGB uint8 (H, W, 3), or (T, H, W, 3). No motion is white, what is not finite is black

    Example:
        >>> flow = np.zeros((2, 1, 3))
        >>> flow[0] = 4, 0, np.nan
        >>> to_color(flow).tolist()
        [[[255, 0, 0], [255, 255, 255], [0, 0, 0]]]
    """
    if longest is not None and (not isinstance(longest, (int, float, np.number)) or not longest > 0):
        raise ShiftsearchError(f"flow.to_color: longest is {longest!r}, expected a number of pixels or None")

    def natively(xp, array):
        array = checked("flow.to_color", "flow", array).astype("float64")
        finite = xp.isfinite(array).all(-3)
        dx, dy = xp.moveaxis(_finite(xp, array), -3, 0)
        length = xp.hypot(dx, dy)
        share = length / (longest or float(length.max()) or 1)
        turn = (xp.arctan2(dy, dx) / (2 * np.pi))[..., None] * 6 + xp.asarray([5.0, 3.0, 1.0])
        ramp = xp.clip(xp.minimum(turn % 6, 4 - turn % 6), 0, 1)  # how much of red, green and blue a hue lacks
        color = (1 - xp.minimum(share, 1)[..., None] * ramp) / xp.maximum(share, 1)[..., None]
        return xp.rint(255 * color * finite[..., None]).astype("uint8")

    return transform("flow.to_color", natively, flow=flow)
