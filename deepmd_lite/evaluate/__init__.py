"""Errors of a model on labelled data: as numbers, as text and as pictures."""

from .errors import FrameResult, Report, Scores, evaluate, scores
from .pictures import plot_parity, write_page
from .text import format_report, write_details

__all__ = [
    "FrameResult",
    "Report",
    "Scores",
    "evaluate",
    "format_report",
    "plot_parity",
    "scores",
    "write_details",
    "write_page",
]
