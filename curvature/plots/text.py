"""Text of figures: numbers in few characters, strangers' names, and how wide it is printed."""

import functools
from collections.abc import Sequence
from typing import Any

FONT = 7.0  # points, the smallest
LINE = FONT * 1.25 / 72  # inches

_LONGEST = 22  # characters of a name


def short(value: float, digits: int = 2) -> str:
    """A number in few characters.

    >>> [short(v) for v in (0, 0.0312, 1, 12.4, 234, 123456.0, -3e24, 0.000012)]
    ['0', '0.031', '1.0', '12', '230', '1.2e5', '-3e24', '1.2e-5']
    """
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if -2 <= int(exponent) <= 2:
        return f"{float(f'{value:.{digits}g}'):.{max(0, digits - 1 - int(exponent))}f}"
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}"


def settings(values: Sequence[Any]) -> list[str]:
    """Learning rates or weight decays as they were typed, in as few digits as tell them apart.

    >>> settings([0.0, 0.1, 0.0005, 1e-05, 3, 0.00215443])
    ['0', '0.1', '5e-4', '1e-5', '3', '2.15e-3']
    """
    for digits in range(3, 17):
        texts = [_setting(value, digits) for value in values]
        if len(set(texts)) == len(set(values)):
            break
    return texts


def _setting(value: Any, digits: int) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "none" if value is None else shown(value)
    if value == 0:
        return "0"
    plain = f"{value:.{digits}g}"
    if "e" not in plain and len(plain.lstrip("-")) <= 5:
        return plain
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}"


def sentence(text: str) -> str:
    """With a capital, where it begins with a plain letter: λ is not Λ."""
    return text[:1].upper() + text[1:] if text[:1].isascii() else text


def shown(text: Any) -> str:
    """A stranger's text fit to be drawn: no mathematics, no control characters, not too long."""
    plain = _drawable(text)
    plain = plain if len(plain) <= _LONGEST else plain[: _LONGEST - 1] + "…"
    return plain.replace("$", r"\$")


def told_apart(names: Sequence[str], longest: int = 30) -> list[str]:
    """Names fit to be drawn, shortened in their middle as far as they stay different.

    >>> told_apart(["experiments/of/the/last/summer/sgd.pt", "b"])
    ['experiments/of…st/summer/sgd.pt', 'b']
    """
    plain = [_drawable(name) for name in names]
    for length in (longest, 30, 45, 60, 90):
        short = [_without_middle(name, max(length, longest)) for name in plain]
        if len(set(short)) == len(set(plain)):
            break
    return [name.replace("$", r"\$") for name in short]


def _without_middle(name: str, longest: int) -> str:
    half = longest // 2
    return name if len(name) <= longest else f"{name[: half - 1]}…{name[-half:]}"


def _drawable(text: Any) -> str:
    known = _glyphs()
    return "".join(c if ord(c) in known and c.isprintable() else "?" for c in str(text))


def wrapped(text: str, width: float) -> list[str]:
    """Lines that are printed within ``width`` inches, but for a longer word."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and width_of(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def width_of(text: str, size: float = FONT) -> float:
    """The printed width in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) / 72


@functools.cache
def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(findfont(FontProperties())).get_charmap())
