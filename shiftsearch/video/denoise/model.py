"""What is known of the noise of a frame: its strength, by plane, frequency and brightness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from shiftsearch.video.frames import halved

SIDE = 8  # of the patches in whose cosine transforms frequencies are told apart
_WHITE = 0.4  # deviation of variances, in their median, that white noise may show
_MOST = 0.75  # of the frequencies show white noise; the others are motion that was not found
_LEAST = 0.05  # standard deviation at a frequency or a shade, in that of all
_EVEN = 1.3  # largest standard deviation of a shade, in the smallest: less is noise that does not depend on brightness

Parts = tuple[np.ndarray | None, ...]


@dataclass(frozen=True, eq=False)
class Noise:
    """The noise of frames, as `estimate_noise` finds it and `denoise(frames, sigma=noise)` takes it.

    Its planes are those that `denoise` filters: one for grey frames; for colours (R + G + B) / sqrt(3), which is called Y
    here, (R - B) / sqrt(2) and (R - 2 G + B) / sqrt(6); and those of YUV, each of its own size. Strengths are on the scale
    where white is 1.
    """

    sigma: tuple[float, ...]  # standard deviation in each plane
    shapes: Parts  # (8, 8) for each plane, relative to sigma at each frequency; None: white noise
    shades: np.ndarray | None = None  # (K,) values of the first plane
    strengths: Parts = ()  # (K,) for each plane, relative to sigma at each shade; None: the same at all
    map: np.ndarray | None = None  # (H, W), relative to sigma at each pixel of all planes; None: the same everywhere
    colour: bool = True  # whether three planes are R + G + B, R - B and R - 2 G + B, and not Y, U and V

    @classmethod
    def white(cls, sigma: Sequence[float]) -> Noise:
        """Return white noise that is the same everywhere, of these standard deviations in the planes."""
        nothing = (None,) * len(sigma)
        return cls(tuple(map(float, sigma)), nothing, None, nothing)

    @classmethod
    def mapped(cls, sigma: np.ndarray, planes: int) -> Noise:
        """Return white noise with a standard deviation for each pixel, (H, W)."""
        level = float(np.sqrt((sigma**2).mean()))
        relative = np.maximum(sigma / level, _LEAST) if level else None
        return replace(cls.white([level] * planes), map=relative)

    @classmethod
    def of(cls, variances: np.ndarray, shades: np.ndarray, of_shades: np.ndarray) -> Noise:
        """Return the simplest noise that has these variances: (C, 8, 8) at frequencies, (C, K) at K shades."""
        sigma, shapes = zip(*map(level_and_shape, variances), strict=True)
        return cls(sigma, shapes, shades, tuple(map(strength_of_shades, of_shades)))

    @classmethod
    def joined(cls, fine: Noise, coarse: Noise) -> Noise:
        """Return the noise of planes: of the first `fine`, of the others `coarse`, whose first is that one, coarser."""
        shades = fine.shades if fine.shades is not None else coarse.shades
        strengths = [*fine.strengths, *(coarse.at(shades, plane) for plane in range(1, len(coarse.sigma)))]
        return cls((*fine.sigma, *coarse.sigma[1:]), (*fine.shapes, *coarse.shapes[1:]), shades, tuple(strengths))

    def at(self, shades: np.ndarray | None, plane: int) -> np.ndarray | None:
        """Return the strength of a plane at other shades, relative to its sigma; None if it is the same at all."""
        strength = self.strengths[plane]
        if strength is None or self.shades is None or shades is None:
            return None
        return np.interp(shades, self.shades, strength)

    def first(self) -> Noise:
        """Return the noise of the first plane."""
        return replace(self, sigma=self.sigma[:1], shapes=self.shapes[:1], strengths=self.strengths[:1])

    def coarsened(self, factors: Sequence[int]) -> Noise:
        """Return the noise where the first plane is averaged: so many rows and columns become one."""
        level, shape, map_ = self.sigma[0], self.shapes[0], self.map
        variances = level**2 * (np.ones((SIDE, SIDE)) if shape is None else shape**2)
        for axis, factor in enumerate(factors):
            for _ in range(factor.bit_length() - 1):
                variances = _averaged(variances, axis)
                map_ = None if map_ is None else np.sqrt(halved(np, map_[None] ** 2, axis + 1)[0])
        level, found = (np.sqrt(variances[0, 0]), None) if shape is None else level_and_shape(variances)
        sigma, shapes = (float(level), *self.sigma[1:]), (found, *self.shapes[1:])
        return replace(self, sigma=sigma, shapes=shapes, map=map_)

    def scaled(self, gain: float, offset: float = 0) -> Noise:
        """Return the noise of frames times `gain`, plus `offset` in the first plane."""
        shades = None if self.shades is None else gain * self.shades + offset
        return replace(self, sigma=tuple(gain * s for s in self.sigma), shades=shades)

    def chosen(self, other: Noise, planes: Sequence[bool]) -> Noise:
        """Return this noise, with that of `other` in some planes."""
        return Noise(
            tuple(b if new else a for a, b, new in zip(self.sigma, other.sigma, planes, strict=True)),
            tuple(b if new else a for a, b, new in zip(self.shapes, other.shapes, planes, strict=True)),
            other.shades,
            tuple(b if new else a for a, b, new in zip(self.strengths, other.strengths, planes, strict=True)),
        )

    def __str__(self) -> str:
        """Describe the strength of each plane, and how it depends on frequency and brightness."""
        names = ("Y", "R - B", "R - 2 G + B") if self.colour else ("Y", "U", "V", "A")
        lines = [f"{name}: {self._told(plane)}" for plane, name in enumerate(names[: len(self.sigma)])]
        return "\n".join(lines)

    def _told(self, plane: int) -> str:
        shape, strength, level = self.shapes[plane], self.strengths[plane], 255 * self.sigma[plane]
        told = [f"noise of {level:.1f} of 255"]
        if shape is None:
            told.append("white")
        else:
            low, high = (level * float(np.sqrt((part**2).mean())) for part in (shape[:3, :3], shape[5:, 5:]))
            told.append(f"{low:.1f} at low and {high:.1f} at high frequencies")
        if strength is not None:
            told.append(f"{level * strength[0]:.1f} in dark and {level * strength[-1]:.1f} in bright places")
        return ", ".join(told)

    def plot(self) -> np.ndarray:
        """Return a picture (H, W), uint8: for each plane a row with its spectrum, low frequencies first, and its shades.

        White is the largest standard deviation of all.
        """
        ones = np.ones((SIDE, SIDE))
        count = 1 if self.shades is None else len(self.shades)
        spectra = [s * (ones if shape is None else shape) for s, shape in zip(self.sigma, self.shapes, strict=True)]
        curves = [s * (np.ones(count) if k is None else k) for s, k in zip(self.sigma, self.strengths, strict=True)]
        rows = [
            np.concatenate([spectrum, np.zeros((SIDE, 1)), np.tile(curve, (SIDE, 1))], 1)
            for spectrum, curve in zip(spectra, curves, strict=True)
        ]
        whole = np.concatenate(rows)
        return np.rint(255 * whole / max(whole.max(), 1e-30)).astype(np.uint8).repeat(16, 0).repeat(16, 1)


def aside(noises: Sequence[Noise]) -> Noise:
    """Return the noises of arrays as that of planes side by side, each of which is the same at all shades."""
    sigma, shapes = ([part for noise in noises for part in getattr(noise, name)] for name in ("sigma", "shapes"))
    return Noise(tuple(sigma), tuple(shapes), noises[0].shades, (None,) * len(sigma))


def mean(noises: Sequence[Noise]) -> Noise:
    """Return the mean of the variances of noises of frames."""
    first = noises[0]
    ones, count = np.ones((SIDE, SIDE)), max(1 if n.shades is None else len(n.shades) for n in noises)
    known = [n for n in noises if n.shades is not None] or [replace(first, shades=np.zeros(count))]

    def variances(parts: str, default: np.ndarray, of: Sequence[Noise]) -> np.ndarray:
        each = [
            [(s * (default if part is None else part)) ** 2 for s, part in zip(n.sigma, getattr(n, parts), strict=True)]
            for n in of
        ]
        return np.mean(each, axis=0)

    shades = np.mean([n.shades for n in known if n.shades is not None], axis=0)
    whole = Noise.of(variances("shapes", ones, noises), shades, variances("strengths", np.ones(count), known))
    return replace(whole, colour=first.colour)


def _averaged(variances: np.ndarray, axis: int) -> np.ndarray:
    """Return the variances (8, 8) at frequencies of noise in the means of pairs of neighbours along an axis.

    High frequencies become low ones.
    """
    variances = np.moveaxis(variances, axis, 0)
    at = np.arange(SIDE)[:, None] / 2
    low, high = (
        np.stack([np.interp(place[:, 0], np.arange(SIDE), column) for column in variances.T], 1)
        for place in (at, SIDE - at)
    )
    kept = np.cos(np.pi / 2 / SIDE * at) ** 2
    return np.moveaxis((kept * low + (1 - kept) * high) / 2, 0, axis)


def level_and_shape(variances: np.ndarray) -> tuple[float, np.ndarray | None]:
    """Return the standard deviation of noise, and that of each frequency (8, 8) relative to it; None if it is white."""
    mean, middle = float(variances.mean()), float(np.median(variances))
    if (abs(variances - middle) <= _WHITE * middle).mean() >= _MOST:
        return float(np.sqrt(middle)), None
    return float(np.sqrt(mean)), np.maximum(np.sqrt(variances / mean), _LEAST)


def strength_of_shades(of_shades: np.ndarray) -> np.ndarray | None:
    """Return the standard deviation of the noise of each shade, relative to all, or None if it is the same."""
    if of_shades.max() <= _EVEN**2 * of_shades.min():
        return None
    return np.sqrt(np.maximum(of_shades / of_shades.mean(), _LEAST**2))


def resized(shape: np.ndarray, side: int) -> np.ndarray:
    """Return the shape (8, 8) of noise for patches of another side."""
    at = np.arange(side) * (SIDE / side)
    rows = np.stack([np.interp(at, np.arange(SIDE), column) for column in shape.T], 1)
    return np.stack([np.interp(at, np.arange(SIDE), row) for row in rows])
