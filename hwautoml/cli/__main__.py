"""``python -m hwautoml.cli``."""

from hwautoml.cli import main

main()
