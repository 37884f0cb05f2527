"""Video files as iterators of frames, and frames as video files. Only this package imports PyAV, and so FFmpeg.

One frame is in memory at a time. All other data is kept: times, colour properties, sound and subtitles.
"""

from shiftsearch.video.io.reader import Reader, read
from shiftsearch.video.io.writer import Writer, write

__all__ = ["Reader", "Writer", "read", "write"]
