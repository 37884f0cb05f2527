"""The implementation of `shiftsearch.flow`."""
