"""What every primitive means, in plain NumPy and float64. All backends are tested against it.

Loops are over what is small (window, patch, kept candidates), and NumPy does what is large (frames, pixels, channels), so
that it works on real video, slowly. A primitive is a function with the mark `@primitive` in any file here.

Everything is one form, S(q, k, weights, offsets) = sum of weights * phi(q(r + u), k(r + offset + u)): `score` is dS/dweights,
`aggregate` dS/dq, `scatter` dS/dk and `slope` dS/doffsets.

Values that are not finite are values like others, and cause no warning: they reach what reads them, and nothing else. One
rule says what reads them, forward and backward, for whole places and for fractions: what has weight 0 is not there.

- A sample is made of the pixels around a position that have a weight and exist. Outside a border of zeros no pixel
  exists. A derivative of a sample has weights of its own: those of a whole position read the next pixel.
- A sample without a pixel does not exist, nor does a pair with such a member. It adds nothing, whatever the other
  member and the weight of the pair are.
- A pair whose weight is 0 adds nothing, whatever its members are. In a backward pass, the weight of a pair is the gradient
  that arrives at a score, or the weight that the user gave: a score that no loss depends on has no gradient.
- Along an axis of one pixel a place does not move: its derivative by the offset is 0.

Only these are weights. The members of a pair are values, and their product may be 0 times infinity, which is NaN.
"""

import numpy as xp  # noqa: F401 (the array module that ops compose these primitives with)

from shiftsearch._primitive import primitives

globals().update(primitives(__name__))
