"""The one exception of this package."""


class ShiftsearchError(ValueError):
    """An argument does not fit its op. The message names the op, the argument, what it was and what was expected."""
