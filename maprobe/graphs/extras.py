"""Packages that come with an extra, and what is said where one is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from maprobe.errors import InputError

__all__ = ["needed"]

_INSTALL = {"ogb": "pip install ogb"}


def needed(module: str, purpose: str) -> ModuleType:
    """Return a module of a package that maprobe does not require.

    Args:
        module: its dotted name.
        purpose: what it is needed for, as the subject of a sentence.

    Raises:
        InputError: it is not installed.
    """
    package = module.split(".", maxsplit=1)[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        install = _INSTALL.get(package, "pip install 'maprobe[graphs]'")
        raise InputError(
            f"{purpose} needs the package {package}, which cannot be imported ({error}); {install}"
        ) from None
