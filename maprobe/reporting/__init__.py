"""Telling what was found: the report, its formats, tables and model cards."""
