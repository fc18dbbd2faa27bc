"""A web page in one file: tables and pictures, nothing fetched from anywhere."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import Any

WIDTH = 4.2
"""Inches of a panel."""
DPI = 110

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } td { padding: 0.15rem 1.2rem 0.15rem 0; vertical-align: top; }
td:nth-child(2) { font-variant-numeric: tabular-nums; } td:nth-child(3) { color: #666; }
img { max-width: 100%; } p { color: #666; }
"""


def page(
    title: str,
    figures: Sequence[tuple[str, str, str]],
    note: str,
    pictures: Sequence[tuple[str, bytes]],
) -> bytes:
    """HTML with `figures` (quantity, value, remark), a `note` on them, and PNGs by title."""
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in figures
    )
    shown = "\n".join(
        f"<h2>{escape(name)}</h2>\n"
        f'<img alt="{escape(name)}" src="data:image/png;base64,{b64encode(content).decode()}">'
        for name, content in pictures
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        f"</title><style>{_STYLE}</style></head><body>\n<h1>{escape(title)}</h1>\n"
        f"<table>\n{rows}\n</table>\n<p>{escape(note)}</p>\n{shown}\n</body></html>\n"
    ).encode()


def panels(n: int, rows: int = 1) -> tuple[Any, list[Any]]:
    """An empty figure and its `n` axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = -(-n // rows)
    figure = Figure(figsize=(WIDTH * across, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, across, squeeze=False).flat)
    for unused in axes[n:]:
        unused.remove()
    for axis in axes[:n]:
        axis.ticklabel_format(useOffset=False)
        axis.grid(color="0.9", lw=0.6)
        axis.set_axisbelow(True)
    return figure, axes[:n]


def png(figure: Any, dpi: int = DPI) -> bytes:
    """The picture as a file."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    return content.getvalue()
