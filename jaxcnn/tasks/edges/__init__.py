"""The boundaries of objects."""
