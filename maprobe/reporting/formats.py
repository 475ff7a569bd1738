"""The report formats that maprobe brings itself."""

from __future__ import annotations

from maprobe.recipes import Renderer
from maprobe.reporting import csv_file, json_file, markdown

__all__ = ["RENDERERS"]

RENDERERS: tuple[Renderer, ...] = (
    Renderer(
        suffix=".json",
        summary="everything that was measured, versioned; the source of the other formats",
        render=json_file.render,
    ),
    Renderer(
        suffix=".md",
        summary="tables by probe and by layer, what failed, and provenance, for people",
        render=markdown.render,
    ),
    Renderer(
        suffix=".csv",
        summary="one row for each clause of each verdict, for spreadsheets and data frames",
        render=csv_file.render,
    ),
)
