"""The commands that take video files: align, denoise, flow and compare."""

from shiftsearch.video.cli.commands import add_commands

__all__ = ["add_commands"]
