"""Fit curvature, take query gradients, score rows, rank them."""
