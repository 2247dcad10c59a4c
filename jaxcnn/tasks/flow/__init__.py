"""The motion of each pixel between two images."""
