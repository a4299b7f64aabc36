"""Images per second of this package's loader and of those that people use today, on their photos and their machine."""
