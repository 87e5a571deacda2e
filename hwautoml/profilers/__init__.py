"""Measure layers and networks on a target and fill a latency table."""
