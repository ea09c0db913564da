"""Single networks side by side: is one's minimum flatter than another's, or is it the noise?

A ratio's ends are the worst that the two networks' own intervals allow, which hold together for
all networks: so they hold however shared probes and examples tie the two errors. Accuracies are
compared example by example where it is known which examples each got right (Bonett & Price 2012).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

from curvature.statistics.bounds import Bounds, bounds
from curvature.statistics.protocol import refuse_other_protocols

WORDS = {  # for the lower and the higher of two positive values
    "trace": ("flatter", "sharper"),
    "eigmax": ("flatter", "sharper"),
    "accuracy": ("less accurate", "more accurate"),
}
PLAIN = ("lower", "higher")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """``name``'s value over ``against``'s, or minus it, with the interval on the examples measured.

    The ``wide_`` one is for others like them, where known. ``word`` says what ``name`` is,
    and is empty where nothing may be said; ``reason`` is why, or how far the word holds.
    """

    metric: str
    name: str
    against: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    wide_low: float | None = None
    wide_high: float | None = None
    ratio: bool = False
    word: str = ""
    reason: str = ""

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        if not self.word:
            return f"{self.name} and {self.against}: nothing to be said of {self.metric}{why}"
        return f"{self.name} is {self.word} than {self.against} in {self.metric}{why}"


def differences(
    rows: Iterable[Row],
    *,
    against: str | None = None,
    hits: Mapping[str, Sequence[bool]] | None = None,
    confidence: float = 0.95,
) -> list[Difference]:
    """Each network ``against`` one, the first that has a value; rows with a ``name`` each.

    ``hits``: of each network, on which examples it was right, in the same order.

    Raises:
        ValueError: if networks were measured differently.
    """
    rows = list(rows)
    refuse_other_protocols(rows)
    names = list(dict.fromkeys(str(row.get("name")) for row in rows))
    if against is not None and against not in names:
        raise ValueError(f"There is no network {against}; there are {', '.join(names[:8])}.")
    found = []
    for metric in dict.fromkeys(str(row.get("metric")) for row in rows):
        of = {str(row.get("name")): row for row in rows if row.get("metric") == metric}
        first = against or next((n for n in names if _has_value(of.get(n))), names[0])
        for name in names:
            if name != first:
                nothing = Difference(metric, name, first)
                pair = (of.get(name), of.get(first))
                found.append(_difference(nothing, *pair, hits or {}, len(names), confidence))
    return found


def _difference(
    nothing: Difference,
    a: Row | None,
    b: Row | None,
    hits: Mapping[str, Sequence[bool]],
    networks: int,
    confidence: float,
) -> Difference:
    for row, name in ((a, nothing.name), (b, nothing.against)):
        if row is None or row.get("value") is None:
            status = "was not measured" if row is None else f"{row.get('status') or 'has no value'}"
            return replace(nothing, reason=f"{name} {status}")
    assert a is not None
    assert b is not None
    if nothing.metric == "accuracy":
        right = (hits.get(nothing.name), hits.get(nothing.against))
        return _of_accuracy(nothing, a, b, right, networks, confidence)
    x, y = (bounds(row, share=networks, confidence=confidence) for row in (a, b))
    ratio = a["value"] > 0 and b["value"] > 0 and _positive(x) and _positive(y)
    value = a["value"] / b["value"] if ratio else a["value"] - b["value"]
    nothing = replace(nothing, ratio=ratio, value=value)
    for row, name, limits in ((a, nothing.name, x), (b, nothing.against, y)):
        if limits.low is None:
            return replace(nothing, reason=f"no error is known of {name}'s")
        if row.get("converged") is False and row.get("standard_error") is None:
            return replace(nothing, reason=f"{name}'s did not converge")
    low, high = _worst(x.low, x.high, y.low, y.high, ratio)
    wide = _worst(x.wide_low, x.wide_high, y.wide_low, y.wide_high, ratio)
    nothing = replace(nothing, low=low, high=high, wide_low=wide[0], wide_high=wide[1])
    return _judged(nothing, float(ratio))


def _judged(found: Difference, nil: float) -> Difference:
    """Name the difference, if the noise cannot explain it, and say how far that holds.

    Flatter is more than lower: it is said where other examples would not reverse it either.
    """
    assert found.low is not None
    assert found.high is not None
    if found.low <= nil <= found.high:
        return replace(found, reason="within the noise of the estimates")
    higher = found.low > nil
    words = WORDS.get(found.metric, PLAIN) if found.ratio else PLAIN
    if found.wide_low is None or found.wide_high is None:
        return replace(found, word=PLAIN[higher], reason="on these examples")
    if found.wide_low <= nil <= found.wide_high:
        return replace(found, word=PLAIN[higher], reason="on these examples only")
    return replace(found, word=words[higher])


def _of_accuracy(
    nothing: Difference,
    a: Row,
    b: Row,
    right: tuple[Sequence[bool] | None, Sequence[bool] | None],
    networks: int,
    confidence: float,
) -> Difference:
    """Nothing is random but the examples."""
    value = a["value"] - b["value"]
    if right[0] is not None and right[1] is not None and len(right[0]) == len(right[1]):
        ends = _paired(right[0], right[1], (1 - confidence) / (networks - 1))
    else:
        x, y = (bounds(row, share=networks, confidence=confidence) for row in (a, b))
        ends = _worst(x.wide_low, x.wide_high, y.wide_low, y.wide_high, False)
    low, high = ends
    found = replace(nothing, value=value, wide_low=low, wide_high=high, low=low, high=high)
    if low is None or high is None:
        return replace(found, reason="its examples were not counted")
    if low <= 0 <= high:
        return replace(found, reason="within the noise of the examples")
    return replace(found, word=WORDS["accuracy"][low > 0])


def _paired(
    a: Sequence[bool], b: Sequence[bool], alpha: float
) -> tuple[float | None, float | None]:
    """The adjusted Wald interval of a difference of paired proportions (Bonett & Price 2012)."""
    n = len(a)
    only_a = (sum(x and not y for x, y in zip(a, b, strict=True)) + 1) / (n + 2)
    only_b = (sum(y and not x for x, y in zip(a, b, strict=True)) + 1) / (n + 2)
    d = only_a - only_b
    half = NormalDist().inv_cdf(1 - alpha / 2) * math.sqrt((only_a + only_b - d**2) / (n + 2))
    return d - half, d + half


def _worst(
    x_low: float | None,
    x_high: float | None,
    y_low: float | None,
    y_high: float | None,
    ratio: bool,
) -> tuple[float | None, float | None]:
    """The ends of x / y, or x − y, over both intervals; the upper one may be infinite."""
    if x_low is None or x_high is None or y_low is None or y_high is None:
        return None, None
    if not ratio:
        return x_low - y_high, x_high - y_low
    return max(0.0, x_low) / y_high, x_high / y_low if y_low > 0 else math.inf


def _positive(limits: Bounds) -> bool:
    return limits.low is None or limits.low > 0


def _has_value(row: Row | None) -> bool:
    return row is not None and row.get("value") is not None
