"""Frames of video as decoders give them: aligned, denoised, read, written and looked at."""
