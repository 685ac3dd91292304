"""How fast diito is, one command each: ``python -m benchmarks.step --help``, and likewise for the other files here.

Results are JSON with the command, every round, the machine and the commit; those that documents speak of are in ``results/``.
"""

import sys

from diito.speed.process import limit_spinning

if not sys.platform.startswith("linux"):
    raise SystemExit("benchmarks: they read a process's memory from /proc, so they need Linux")

limit_spinning()  # as the command does; before torch is imported
