"""Video, built on the ops.

| package or module | does |
| --- | --- |
| `align` | warps frames onto other frames |
| `denoise` | removes noise |
| `flow` | measures, converts, checks and draws optical flow: the inside of `shiftsearch.flow` |
| `scenes`, `chunks` | finds where scenes begin; splits long clips into pieces |
| `io` | reads and writes video files |
| `cli` | the commands that take video files |
| `frames`, `noise`, `streams`, `types` | shared by the others: layouts, levels of noise, iterables, types of arguments
|
"""
