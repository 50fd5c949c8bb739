"""One training step, one compiled loop over steps, and what a run needs around it."""
