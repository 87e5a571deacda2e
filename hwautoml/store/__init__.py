"""The run folder: what was computed is written down as it is computed, and never lost."""
