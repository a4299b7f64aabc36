"""Reinforcements that others have published, as data sets of ours. A module per foreign format, and what they share."""
