"""Keeping libraries quiet while they load: no bars, log lines or warnings that the user did not ask for."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

from maprobe.progress import Progress

__all__ = ["hushed"]

_LOGGERS = ("accelerate", "gguf", "huggingface_hub", "torch", "transformers")


@contextmanager
def hushed(progress: Progress) -> Iterator[None]:
    """Silence libraries for the time of the context; only their progress bars show, where ``progress`` lets them.

    Warnings are dropped rather than passed on: a session in which warnings are errors must not fail because a
    library that loads a checkpoint uses something deprecated.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(_errors_only())
        if not stack.enter_context(progress.foreign()):
            # Some bars can be switched off only where they are made; all of them write to sys.stderr.
            stack.enter_context(redirect_stderr(io.StringIO()))
            stack.enter_context(redirect_stdout(io.StringIO()))
        yield


@contextmanager
def _errors_only() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
