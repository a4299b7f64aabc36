"""Loading: from a data set and options to batches."""
