"""The data sets that can be named, and how one is loaded."""
