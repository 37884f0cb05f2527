"""The ops, one file each: public functions, their options, and what they do in terms of a backend's primitives."""
