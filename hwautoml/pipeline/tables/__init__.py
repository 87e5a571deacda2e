"""How latency tables are found and made."""
