"""Copies of data sets between folders and stores."""
