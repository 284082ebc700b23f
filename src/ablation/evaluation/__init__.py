"""A trained network from a run's folder or a file, measured on the test set."""
