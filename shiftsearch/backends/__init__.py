"""Executors. Each offers the primitives of `shiftsearch.definition`, by the same names, on its own kind of array."""
