"""`shiftsearch demo`: what the package does, shown on a drawn film, as a table and a picture.

| module | has |
| --- | --- |
| `scene`, `drawing`, `brush` | the film, whose motion is known |
| `jobs` | what is done with it, and how far that is from the truth |
| `picture`, `lettering` | the picture, and its letters |
| `run` | the command |
"""
