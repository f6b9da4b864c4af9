"""A process that ends with the one that started it, however that ends: also by a kill that leaves it no time."""

from __future__ import annotations

import signal
import sys

# Not by preexec_fn, which can deadlock in a process with threads; PR_SET_PDEATHSIG (1) outlives exec.
TIE = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, {number}); os.nice({nice}); os.execv(sys.argv[1], sys.argv[1:])"
)


def tied(number: signal.Signals, *, nice: int = 0) -> list[str]:
    """What to put before a command so that the kernel sends it ``number`` when its starter dies; empty but on Linux.

    ``nice`` lowers the priority of the command where it is tied. The kernel ties a process to the thread that started
    it: that one must live as long.
    """
    return [sys.executable, "-ISc", TIE.format(number=int(number), nice=nice)] if sys.platform == "linux" else []
