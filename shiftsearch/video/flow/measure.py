"""Flow between two frames, measured by our own search, or by OpenCV, which no other module imports."""

from __future__ import annotations

import importlib
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from shiftsearch._arrays import transform
from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.flow.arrays import pairwise
from shiftsearch.video.flow.pyramid import between
from shiftsearch.video.forms import unpacked
from shiftsearch.video.frames import DTYPES, layout, planar
from shiftsearch.video.noise import noise_scale
from shiftsearch.video.scale import check_scale
from shiftsearch.video.types import METHOD, AnyFrames, Array, Method, Picture, Several

_MOST_BLUR = 16.0  # pixels
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # weights of R, G and B
_APART = 3  # pixels
_LEAST = 32  # pixels per side: OpenCV takes no smaller frames, so these are padded


@overload
def auto(reference: NDArray[Any], target: AnyFrames, *, sigma: float | None = None) -> NDArray[np.float32]: ...
@overload
def auto(reference: Array, target: AnyFrames, *, sigma: float | None = None) -> Array: ...
@overload
def auto(reference: Picture | Several, target: AnyFrames, *, sigma: float | None = None) -> Any: ...


def auto(reference: Any, target: Any, *, sigma: float | None = None) -> Any:
    """Measure flow as `align` and `denoise` do.

    This is `dis` if OpenCV is there and the frames are in main memory. Else it is `match`.

    Args:
        reference, target, sigma: as in `dis`

    Returns:
        as `dis`

    Example:
        >>> auto(np.zeros((48, 64), np.uint8), np.zeros((48, 64), np.uint8)).shape
        (2, 48, 64)
    """
    return _measured("auto", reference, target, sigma)


def pair(frames: Array, *, method: Method = METHOD, sigma: float | None = None) -> tuple[Array, Array]:
    """Measure the flow from each frame of a clip to the next one, and to the one before.

    Args:
        frames: a clip, see `shiftsearch.video.frames`
        method: "auto", "match", "dis" or "farneback"
        sigma: as in `dis`

    Returns:
        (forward, backward), each (T, 2, H, W), as `search`, `attend` and `denoise` take them. Where there is no such
        frame, flow is 0

    Example:
        >>> clip = np.random.default_rng(0).random((3, 24, 32))
        >>> forward, backward = pair(clip, method="match")
        >>> forward.shape, bool((forward[-1] == 0).all()), bool((backward[0] == 0).all())
        ((3, 2, 24, 32), True, True)
    """
    if method not in METHODS:
        raise ShiftsearchError(f"flow.pair: method is {method!r}, expected one of {', '.join(map(repr, METHODS))}")
    frames, _ = unpacked("flow.pair", "frames", frames)
    level = 0.0 if sigma is None else noise_scale("flow.pair", sigma, frames)
    check_scale("flow.pair", frames, None, told=False)

    def natively(xp: Any, clip: Any) -> tuple[Any, Any]:
        if not layout("flow.pair", "frames", clip.shape)[1]:
            raise ShiftsearchError(
                f"flow.pair: frames has shape {tuple(clip.shape)}, expected a clip (T, H, W) or (T, H, W, C)"
            )
        whole = planar("flow.pair", "frames", clip)
        both = xp.zeros((2, len(whole), 2, *whole.shape[2:]), "float32")
        for t in range(len(whole) - 1):
            both[0, t], both[1, t + 1] = both_ways("flow.pair", xp, method, whole[t], whole[t + 1], level)
        return both[0], both[1]

    forward, backward = transform("flow.pair", natively, DTYPES, frames=frames)
    return forward, backward


@overload
def match(reference: NDArray[Any], target: AnyFrames, *, sigma: float | None = None) -> NDArray[np.float32]: ...
@overload
def match(reference: Array, target: AnyFrames, *, sigma: float | None = None) -> Array: ...
@overload
def match(reference: Picture | Several, target: AnyFrames, *, sigma: float | None = None) -> Any: ...


def match(reference: Any, target: Any, *, sigma: float | None = None) -> Any:
    """Measure flow by our own search, from coarse to fine.

    It needs no OpenCV, and runs where the frames are. Changes of light do not mislead it. It finds motion of any length.
    It fills what has gone out of sight from around. On the CPU it takes some 20 times as long as `dis`.

    Args:
        reference, target: as in `dis`
        sigma: standard deviation of the noise, where white is 255 for integers and 1 for floats. None trusts the frames

    Returns:
        as `dis`

    Example:
        >>> from shiftsearch import flow
        >>> here = np.random.default_rng(0).random((16, 20)).repeat(4, 0).repeat(4, 1)
        >>> found = flow.match(here, np.roll(here, 2, axis=1))
        >>> found.shape, abs(np.median(found, axis=(1, 2)).round(1)).tolist()
        ((2, 64, 80), [2.0, 0.0])
    """
    return _measured("match", reference, target, sigma)


@overload
def dis(reference: NDArray[Any], target: AnyFrames, *, sigma: float | None = None) -> NDArray[np.float32]: ...
@overload
def dis(reference: Array, target: AnyFrames, *, sigma: float | None = None) -> Array: ...
@overload
def dis(reference: Picture | Several, target: AnyFrames, *, sigma: float | None = None) -> Any: ...


def dis(reference: Any, target: Any, *, sigma: float | None = None) -> Any:
    """Measure flow by OpenCV's dense inverse search (DIS).

    It is quick (0.5 s for a megapixel), and runs on the CPU.

    Args:
        reference: a frame or a clip, see `shiftsearch.video.frames`
        target: the same. A single frame is compared with every frame of a clip
        sigma: standard deviation of the noise, where white is 255 for integers and 1 for floats. If it is given, the
            frames are blurred before they are compared. The blur is sigma / 20 pixels on the scale of 255, at least 1

    Returns:
        flow (2, H, W), or (T, 2, H, W) if one of the two is a clip, float32, of the same array library

    Example:
        >>> y, x = np.mgrid[:64, :80]
        >>> here, there = (128 + 60 * np.sin((x - s) / 5) + 60 * np.cos(y / 7 + x / 9) for s in (0, 2))
        >>> found = dis(here.astype(np.uint8), here.astype(np.uint8))
        >>> found.shape, float(abs(found).max()) < 0.1
        ((2, 64, 80), True)
    """
    return _measured("dis", reference, target, sigma)


@overload
def farneback(reference: NDArray[Any], target: AnyFrames, *, sigma: float | None = None) -> NDArray[np.float32]: ...
@overload
def farneback(reference: Array, target: AnyFrames, *, sigma: float | None = None) -> Array: ...
@overload
def farneback(reference: Picture | Several, target: AnyFrames, *, sigma: float | None = None) -> Any: ...


def farneback(reference: Any, target: Any, *, sigma: float | None = None) -> Any:
    """Measure flow by OpenCV's polynomial expansion (Farneback).

    It is smooth, and runs on the CPU.

    Args:
        reference, target, sigma: as in `dis`

    Returns:
        as `dis`

    Example:
        >>> farneback(np.zeros((3, 48, 64), np.uint8), np.zeros((48, 64), np.uint8)).shape
        (3, 2, 48, 64)
    """
    return _measured("farneback", reference, target, sigma)


@overload
def none(reference: NDArray[Any], target: AnyFrames) -> NDArray[np.float32]: ...
@overload
def none(reference: Array, target: AnyFrames) -> Array: ...
@overload
def none(reference: Picture | Several, target: AnyFrames) -> Any: ...


def none(reference: Any, target: Any) -> Any:
    """Return the flow of no motion: zeros.

    Args:
        reference, target: as in `dis`

    Returns:
        flow of the shape that `dis` returns

    Example:
        >>> none(np.zeros((48, 64, 3)), np.zeros((48, 64, 3))).shape
        (2, 48, 64)
    """
    return pairwise("flow.none", lambda xp, a, b: xp.zeros((len(a), 2, *a.shape[2:]), np.float32), reference, target)


def _dis(cv2: Any, a: Any, b: Any, apart: int) -> Any:
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setPatchStride(apart)
    return search.calc(a, b, None)


def _farneback(cv2: Any, a: Any, b: Any, apart: int) -> Any:
    return cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 5, 15, 3, 7, 1.5, 0)


_OPENCV = {"dis": _dis, "farneback": _farneback}
METHODS = ("auto", "match", *_OPENCV)


def both_ways(
    op: str, xp: Any, method: str, reference: Any, target: Any, level: float, apart: int = _APART
) -> tuple[Any, Any]:
    """Return the flow (2, H, W) from reference to target and back, as `measure` does; "match" finds one with the other."""
    if _chosen(xp, method) == "match":
        there, back = between(xp, reference, target, level)
        return there, back
    pairs = (reference, target), (target, reference)
    there, back = (measure(op, xp, method, *pair, level, apart) for pair in pairs)
    return there, back


def measure(op: str, xp: Any, method: str, reference: Any, target: Any, level: float, apart: int = _APART) -> Any:
    """Return the flow (2, H, W) between frames (C, H, W) on the scale 0..1 with noise of standard deviation `level`.

    The patches that DIS compares are so many pixels apart.
    """
    method = _chosen(xp, method)
    if method == "match":
        return between(xp, reference, target, level)[0]
    if xp is not np:
        raise ShiftsearchError(
            f"{op}: the frames are on a GPU, expected in main memory: OpenCV measures flow on the CPU. "
            'Pass flow="match", or flow of another method as an array'
        )
    cv2 = _opencv(op)
    blur = min(max(1.0, level * 255 / 20), _MOST_BLUR) if level else 0.0
    here, there = (_prepared(cv2, frame, blur) for frame in (reference, target))
    found = _OPENCV[method](cv2, here, there, apart)
    return np.ascontiguousarray(found.transpose(2, 0, 1)[:, : reference.shape[1], : reference.shape[2]])


def _chosen(xp: Any, method: str) -> str:
    """Return the method, of "auto" the quicker one that there is for frames of this array module."""
    if method != "auto":
        return method
    return "dis" if xp is np and _has_opencv() else "match"


def set_opencv_threads(number: int) -> None:
    """Let this many threads of OpenCV compute, where it is there."""
    if _has_opencv():
        importlib.import_module("cv2").setNumThreads(number)


def _has_opencv() -> bool:
    try:
        importlib.import_module("cv2")
    except ImportError:
        return False
    return True


def _measured(method: str, reference: Any, target: Any, sigma: float | None) -> Any:
    op = f"flow.{method}"
    reference, _ = unpacked(op, "reference", reference)
    level = 0.0 if sigma is None else noise_scale(op, sigma, reference)
    check_scale(op, reference, None, told=False)

    def natively(xp: Any, reference: Any, target: Any) -> Any:
        return xp.stack([measure(op, xp, method, *pair, level) for pair in zip(reference, target, strict=True)])

    return pairwise(op, natively, reference, target)


def _opencv(op: str) -> Any:
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise ShiftsearchError(
            f'{op}: OpenCV is missing ({error}), expected it from: pip install "shiftsearch[video]". Pass flow="auto" or '
            '"match", which need none'
        ) from None


def _prepared(cv2: Any, frame: Any, blur: float) -> Any:
    """Return a frame (C, H, W) on the scale 0..1 as OpenCV takes it: grey, 8 bits, padded if it is small."""
    grey = np.tensordot(_GREY, frame[:3], 1) if len(frame) > 2 else frame[0]
    grey = np.rint(255 * np.fmin(np.fmax(grey, 0), 1)).astype(np.uint8)
    height, width = grey.shape
    grey = np.pad(grey, ((0, max(0, _LEAST - height)), (0, max(0, _LEAST - width))), mode="edge")
    return cv2.GaussianBlur(grey, (0, 0), blur) if blur else np.ascontiguousarray(grey)
