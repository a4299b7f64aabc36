"""Reinforcing a data set: sources of images, teachers, and the generation that joins them into shards."""
