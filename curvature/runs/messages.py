"""Text from strangers' files, and lists of names, fit for a message of one line."""

from collections.abc import Iterable

GATHER = (
    "Gather them where they were made: save get_model_state_dict(model, options="
    "StateDictOptions(full_state_dict=True, cpu_offload=True)) of "
    "torch.distributed.checkpoint.state_dict"
)


def printable(name: object) -> str:
    """A stranger's text fit for a message: one line, no control characters, not too long."""
    text = harmless(str(name))
    return text if len(text) <= 80 else text[:77] + "…"


def harmless(line: str) -> str:
    """One line without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in line)


def one_line(error: BaseException) -> str:
    """The first line of an error's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(lines[0].rstrip(".")) if lines else type(error).__name__


def listed(names: Iterable[object], most: int = 3) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    shown = ", ".join(f"`{printable(name)}`" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
