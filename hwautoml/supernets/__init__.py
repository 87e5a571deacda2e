"""One weight-sharing network per space: training, scoring and cutting members out."""
