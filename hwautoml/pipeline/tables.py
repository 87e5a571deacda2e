"""Latency tables: found when one is valid, measured when not."""
