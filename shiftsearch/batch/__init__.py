"""Many videos, or long ones, on the processes of a machine or on a Ray cluster: `shiftsearch batch`.

| module | does |
| --- | --- |
| `storage` | reads and writes files by path or address |
| `jobs` | finds the videos to make, and how far each is |
| `steps` | plans a video, computes its parts, joins them |
| `schedule` | runs tasks on workers, whatever they do |
| `processes`, `cluster` | the workers |
| `command` | puts these together, and tells what came of it |

The process that the user starts opens no video and writes none: it hands out tasks, and may be killed at any time.
"""

from shiftsearch.batch.command import add_command

__all__ = ["add_command"]
