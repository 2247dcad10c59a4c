"""Image classification: networks that give a score for each class, `(N, classes)`."""
