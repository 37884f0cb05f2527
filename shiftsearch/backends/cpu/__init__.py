from shiftsearch.definition import *
from shiftsearch.definition import xp
