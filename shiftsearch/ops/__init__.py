"""The ops: their public functions, and what each does in terms of a backend's primitives."""
