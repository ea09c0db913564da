"""Callbacks for other people's training loops, each imported only by who uses it."""
