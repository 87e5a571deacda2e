"""Child processes that run this package's modules: what they may import, and that they end with their parent."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIFELINE = "HWAUTOML_LIFELINE"  # its descriptor, for the child


def module_command(module: str) -> tuple[str, ...]:
    """Runs ``module``; a ``random.py`` in the current folder is not taken for Python's own."""
    return (sys.executable, "-P", "-m", module)


def child_environment(**variables: str) -> dict[str, str]:
    """This process's, with this package importable; nothing is imported from the current folder, by their children too.

    An empty part of PYTHONPATH, which a stray colon makes, would mean that folder.
    """
    package_parent = str(Path(__file__).resolve().parents[2])
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = os.pathsep.join(filter(None, [package_parent, *known]))
    return os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"} | variables


def die_with_parent(parent: int) -> None:
    """Not even a hung native call may outlive a parent that was killed.

    The kernel means the thread that started the child: where threads come and go, use a `Lifeline`.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent ended before the worker started")


class Lifeline:
    """A pipe into which nothing is written: when the parent ends, however it does, the kernel ends its child.

    For ``Popen(..., pass_fds=line.pass_fds, env=line.environment(...))``, then ``started``.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()

    @property
    def pass_fds(self) -> tuple[int, ...]:
        return (self._reader,)

    def environment(self, **variables: str) -> dict[str, str]:
        return child_environment(**variables, **{_LIFELINE: str(self._reader)})

    def started(self) -> None:
        """The child has its end."""
        os.close(self._reader)

    def cut(self) -> None:
        os.close(self._writer)


def hold_lifeline() -> None:
    """In the child: from now on it ends, at once and wherever it is, with its parent.

    SIGIO, whose default action ends a process, comes when the pipe's other end is closed. Does nothing where a test
    or a person started this process by hand.
    """
    descriptor = int(os.environ.pop(_LIFELINE, "-1"))
    if descriptor < 0:
        return
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if poll.poll(0):
        sys.exit("the parent ended before the worker started")
