"""How alike two frames are: PSNR and SSIM, of frames (H, W) or (H, W, C) from 0 to 1."""

from __future__ import annotations

import numpy as np

WINDOW = 7  # rows and columns of the windows of SSIM
_BRIGHTNESS, _CONTRAST = 0.01**2, 0.03**2  # what keeps ratios of SSIM from 0 / 0


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB, infinite for equal frames."""
    square = np.mean(np.square(one - other, dtype=np.float64))
    with np.errstate(divide="ignore"):
        return float(-10 * np.log10(square))


def ssim(one: np.ndarray, other: np.ndarray, window: int = WINDOW) -> float:
    """Return the structural similarity: the mean over all whole windows, and over channels.

    Windows weigh their pixels alike, and variances are those of samples.
    """
    x, y = one.astype(np.float64), other.astype(np.float64)
    mean_x, mean_y = _means(x, window), _means(y, window)
    sample = window**2 / (window**2 - 1)
    spread = sample * (_means(x * x + y * y, window) - mean_x**2 - mean_y**2)
    common = sample * (_means(x * y, window) - mean_x * mean_y)
    brightness = (2 * mean_x * mean_y + _BRIGHTNESS) / (mean_x**2 + mean_y**2 + _BRIGHTNESS)
    return float(np.mean(brightness * (2 * common + _CONTRAST) / (spread + _CONTRAST)))


def _means(values: np.ndarray, window: int) -> np.ndarray:
    """Return the means of all windows that lie inside."""
    for axis in (0, 1):
        values = values.swapaxes(0, axis)
        sums = np.concatenate([np.zeros_like(values[:1]), values.cumsum(0)])
        values = ((sums[window:] - sums[:-window]) / window).swapaxes(0, axis)
    return values
