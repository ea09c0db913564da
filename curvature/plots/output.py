"""A figure as the bytes of a file."""

import io
from typing import Any

FORMATS = ("png", "svg", "pdf")

_DPI = 300


def caption_of(figure: Any) -> str:
    """What is written below the figure."""
    return str(figure.get_label())


def require_format(kind: str) -> None:
    """Refuse another format than png, svg and pdf."""
    if kind not in FORMATS:
        raise ValueError(f"A figure is written as {', '.join(FORMATS)}, not `{kind}`.")


def figure_bytes(figure: Any, kind: str, *, transparent: bool = False) -> bytes:
    """The figure as png, svg or pdf: the same bytes for the same table; fonts as text."""
    require_format(kind)
    from matplotlib import rc_context

    settings: Any = {"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "curvature"}
    caption = caption_of(figure)
    about: Any = {
        "png": {"Description": caption},
        "svg": {"Description": caption, "Date": None},
        "pdf": {"Subject": caption, "CreationDate": None},
    }
    buffer = io.BytesIO()
    with rc_context(settings):
        figure.savefig(
            buffer,
            format=kind,
            dpi=_DPI,
            metadata=about[kind],
            facecolor="none" if transparent else "white",
        )
    return buffer.getvalue()
