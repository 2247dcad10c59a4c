"""Convolutions on a CPU by oneDNN, called over XLA's public foreign function interface."""
