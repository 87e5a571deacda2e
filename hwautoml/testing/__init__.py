"""Conformance suites for parts that other packages bring: pytest classes to subclass, one file per kind of part."""
