"""The class of a sentence."""
