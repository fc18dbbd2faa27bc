"""Models of DeePMD-kit in and out."""

from .convert import convert
from .deepmd_kit import potential_from_tree
from .export import tree_of

__all__ = ["convert", "potential_from_tree", "tree_of"]
