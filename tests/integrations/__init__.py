"""Tests of `curvature.integrations`, with the real libraries."""
