"""Keypoints: networks that give the positions of points, `(N, points, 2)`, as `keypoint_net` does."""
