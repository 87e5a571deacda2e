"""Targets of hwautoml: every ``NAME.toml`` beside this file is one."""
