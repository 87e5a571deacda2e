"""Conformance suites: classes of pytest tests that the author of a part subclasses. See docs/extending/."""
