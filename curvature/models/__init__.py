"""The networks that can be named, and how one is built."""
