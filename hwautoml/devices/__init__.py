"""Where code runs: this machine, in an isolated process with fixed threads and cores."""
