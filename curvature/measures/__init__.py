"""One file per number that is reported."""
