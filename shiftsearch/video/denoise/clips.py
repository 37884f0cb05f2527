"""Clips in memory, denoised, and how many frames a result depends on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from shiftsearch._arrays import transform
from shiftsearch.errors import ShiftsearchError
from shiftsearch.video.denoise.model import Noise
from shiftsearch.video.denoise.qualities import PASSES
from shiftsearch.video.denoise.spec import DenoiseSpec, pair_of, spec_of
from shiftsearch.video.denoise.streams import denoised
from shiftsearch.video.flow.arrays import checked
from shiftsearch.video.forms import unpacked
from shiftsearch.video.frames import DTYPES, layout
from shiftsearch.video.streams import watched
from shiftsearch.video.types import METHOD, AnyArray, Frames, Measure, Method, Quality, Sigma, Strength

_BOTH = "forward", "backward"


def denoise(
    frames: Frames,
    sigma: Sigma | Sequence[float] | AnyArray | Noise = None,
    *,
    quality: Quality = DenoiseSpec.quality,
    radius: int | None = DenoiseSpec.radius,
    flow: Method | Measure | tuple[AnyArray, AnyArray] | None = METHOD,
    strength: Strength = 1.0,
    mix: float = DenoiseSpec.mix,
    temporal_only: bool = DenoiseSpec.temporal_only,
    white: float | None = None,
    bits: int | None = None,
    max_memory: int | str | None = DenoiseSpec.max_memory,
    progress: Callable[..., Any] | None = None,
) -> Frames:
    """Remove the noise of a clip.

    Similar patches are found in the frames around, and filtered together. `sigma=None` measures the noise. That noise may
    be correlated from pixel to pixel, as that of most cameras and codecs is. A number stands for white noise.

    Args:
        frames: a clip (T, H, W) or (T, H, W, C), or a frame. uint8, uint16, or floats whose white is 1: see
            `shiftsearch.video.frames`. Or a list of frames, or images of PIL. Three channels are a colour. The last of
            two or four is alpha, which is kept
        sigma: standard deviation of the noise, where white is 255 for integers and 1, or the option `white`, for floats.
            Or one for each of three channels, or one for each pixel, (H, W), or the noise that `estimate_noise` found.
            None or "auto" finds it for each frame and frequency, from what differs between frames along the motion. With
            flow=None, and for a single frame, it is the white noise that the flattest parts show, unless frames differ
            less. What shows nothing but noise, and may be texture, is then kept, with a warning
        quality: "fast" filters groups of one patch of each frame in two passes, by thresholds and Wiener filters of
            their cosine transforms. "preview" is the first pass alone. "high" goes on in two more passes: it takes groups
            of some 50 patches and filters their principal components. It takes about 20 times as long
        radius: frames each way to search in, where the scene has them. None is 2 for "preview", 3 for "fast" and 6 for
            "high"
        flow: where to search. "match" measures flow by our own search, "dis" and "farneback" by OpenCV. "auto" is "dis"
            where that works, else "match". None means no motion. A pair (forward, backward) of (T, 2, h, w) leads from
            each frame to the next and to the one before, in pixels of its own grid. Channel 0 is dx, and channel 1 is dy.
            `flow.pair` makes such a pair. Flow networks do too, with T - 1 each. A function of (reference, target)
            returns one flow (2, h, w)
        strength: how many times that noise is taken for noise. More is smoother, less keeps more detail, 0 changes
            nothing. One number, or one for each plane. The planes of colours are R + G + B, R - B and R - 2 G + B: so
            (1, 1.5, 1.5) takes more noise from colour than from brightness
        mix: share of the grain that is kept, from 0 to 1. With 1, the frames stay as they are
        temporal_only: average along the motion only. No pixel is filtered with others of its frame. So detail is kept
            that only one frame shows, and more noise stays. For quality "fast"
        white: the value that is white, if it is not the usual one: 255 for floats from 0 to 255. The usual one is the
            largest of an integer type, and 1 for floats
        bits: the depth of integers, if it is not that of their dtype: 10 if uint16 holds 0 to 1023
        max_memory: limit of the memory beside the frames that are given and returned: a number of bytes, or text such
            as "500MB". If it is less than the frames in reach take, an error says how much they take. Changes of light
            take more for a moment. None is what these take and 1 GiB. The result does not depend on it
        progress: a function such as tqdm that shows the progress. It is called with what to iterate over, and `total`

    Returns:
        the denoised frames, in the layout, dtype and library of `frames`. Of a list, a list. Scenes are found, and
        denoised separately

    Example:
        >>> rng = np.random.default_rng(0)
        >>> still = rng.random((6, 9)).repeat(11, 0).repeat(11, 1)
        >>> clip = np.stack([np.roll(still, t, axis=1) for t in range(5)])
        >>> noisy = clip + 0.1 * rng.standard_normal(clip.shape)
        >>> denoised = denoise(noisy, sigma=0.1, flow=None)
        >>> bool(((denoised - clip) ** 2).mean() < ((noisy - clip) ** 2).mean() / 10)
        True
    """
    frames, give = unpacked("denoise", "frames", frames)
    options = {"quality": quality, "radius": radius, "mix": mix, "temporal_only": temporal_only}
    spec = spec_of("denoise", frames, [sigma], strength, white, bits, max_memory=max_memory, **options)
    given = pair_of("denoise", flow)
    pair = given if isinstance(given, tuple) else ()

    def whole(xp: Any, clip: Any, *both: Any) -> Any:
        many = layout("denoise", "frames", clip.shape)[1]
        out = xp.empty(clip.shape, clip.dtype)
        source, done = (clip, out) if many else (clip[None], out[None])
        both = _of_all(xp, both, len(source))
        found = denoised(spec, ((frame,) for frame in source), both or flow)
        for n, (frame,) in enumerate(watched("denoise", progress, found, len(source))):
            done[n] = frame
        return out

    return give(transform("denoise", whole, DTYPES, frames=frames, **dict(zip(_BOTH, pair, strict=False))))


def _of_all(xp: Any, pair: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    """Return a pair with a flow for each frame: flow networks give none to the last frame, and none back to the first."""
    lengths = [len(checked("denoise", *named)) if named[1].ndim == 4 else 0 for named in zip(_BOTH, pair, strict=False)]
    if lengths == [count - 1, count - 1]:
        none = xp.zeros_like(pair[0][:1])
        return xp.concatenate((pair[0], none)), xp.concatenate((none, pair[1]))
    for name, flow, length in zip(_BOTH, pair, lengths, strict=False):
        if length != count:
            raise ShiftsearchError(
                f"denoise: {name} has shape {tuple(flow.shape)}, expected ({count}, 2, H, W) or coarser, or one flow less "
                "in both"
            )
    return pair


def denoise_overlap(*, quality: Quality = DenoiseSpec.quality, radius: int | None = DenoiseSpec.radius) -> int:
    """Return the `overlap` for `chunks`: a result of `denoise` depends on so many frames before and after its own.

    Args:
        quality, radius: as in `denoise`

    Returns:
        number of frames: 2 * radius for each pass, and one

    Example:
        >>> denoise_overlap(radius=2)
        9
    """
    spec = spec_of("denoise_overlap", None, [None], quality=quality, radius=radius)
    return 2 * spec.reach * len(PASSES[spec.quality]) + 1
