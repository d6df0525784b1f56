"""Graph passes, one per file: each states what it requires and ensures, and numbers its rewrite rules."""

from edgemm.graph.passes.clean import clean_

__all__ = ["clean_"]
