"""Data sets on disk: plain tar shards, their manifest and index, written by write_shards, read by Dataset."""
