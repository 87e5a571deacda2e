"""One thread for the algebra of all tests and of the processes they start.

Their matrices are small, and threads that share a busy core wait for each other: it is many times slower.
This must come before numpy and torch are imported; whoever wants threads sets the variables himself, and
a test about threads asks for them.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
    os.environ.setdefault(name, "1")
