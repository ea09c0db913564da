"""What is bad input rather than a fault of the program, and how it is said in one line."""

from __future__ import annotations

from curvature.runs.messages import harmless

INTERRUPTED = 130  # the exit code of a program that Ctrl-C ended
BAD_INPUT = (ValueError, TypeError, OSError, ArithmeticError, RuntimeError, ImportError)


def one_line(error: BaseException) -> str:
    """An error's message on one line; a system error names its file."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return harmless(f"{where}{error.strerror}.")
    return harmless(" ".join(str(error).split()))
