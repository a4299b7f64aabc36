"""Loaders for the training scripts of others."""
