"""What roles cannot tell about a model family, as data. Rows for further families come through a hook.

A row is the exception: the parts of a model are found by what its modules do (see docs/architecture.md), and a part
that a row names must stand the same proofs as one that was found.
"""

from __future__ import annotations

from maprobe.recipes import Architecture

__all__ = ["ARCHITECTURES"]

ARCHITECTURES: tuple[Architecture, ...] = ()
