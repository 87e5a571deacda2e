"""Suites of tests for authors of spaces and other parts; they need pytest, which hwautoml itself does not."""
