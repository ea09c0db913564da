"""Tests of `curvature.tracking`."""
