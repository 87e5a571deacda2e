"""One self-contained HTML page about a run, with a picture of its front and a CSV beside it."""
