"""Experiments: a script a result. From the project's folder: `python -m experiments.NAME --help`."""
