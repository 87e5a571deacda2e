"""What the stages of one run share."""
