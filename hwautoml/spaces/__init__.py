"""Search spaces declared as data; one file per space, found by name."""
