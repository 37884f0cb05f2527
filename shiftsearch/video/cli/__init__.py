"""The commands that take video files: align, denoise, flow and compare; and what completes all commands in a shell."""

from shiftsearch.video.cli.commands import add_commands
from shiftsearch.video.cli.completion import add_completion

__all__ = ["add_commands", "add_completion"]
