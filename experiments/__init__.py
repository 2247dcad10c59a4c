"""Experiments: one script for each result. Run one from the project's folder: `python -m experiments.NAME --help`."""
