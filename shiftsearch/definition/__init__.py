"""What every primitive means, in plain NumPy and float64. All backends are tested against it.

Python loops over what is small (window, patch, kept candidates) and NumPy over what is large (frames, pixels,
channels), so real video can be computed, slowly. Every function marked `@primitive` in a file here is a primitive.

Everything is one form, S(q, k, weights, offsets) = sum of weights * phi(q(r + u), k(r + offset + u)): `score` is dS/dweights,
`aggregate` dS/dq, `scatter` dS/dk and `slope` dS/doffsets.

Infinity and NaN are values like others, and cause no warning: they reach every result that reads them, and no other.
One rule says what is read, forward and backward, at whole places and at fractions: a value of weight 0 is not read.

- A sample is made of the pixels around a position that have a weight and exist. Outside a border of zeros no pixel
  exists. A derivative of a sample has weights of its own: those of a whole position read the next pixel.
- A sample without a pixel does not exist, nor does a pair with such a member. Such a pair adds nothing, whatever its
weight and its other member are. - A pair whose weight is 0 adds nothing, whatever its members are. In a backward pass,
the weight of a pair is the gradient
  that arrives at a score, or the weight that the user gave: a score that no loss depends on has no gradient.
- Along an axis of one pixel a place does not move: its derivative by the offset is 0.

Only these are weights. The members of a pair are values, and their product may be 0 times infinity, which is NaN.
"""

import numpy as xp  # noqa: F401 (the array module that ops compose these primitives with)

from shiftsearch._primitive import primitives

globals().update(primitives(__name__))
