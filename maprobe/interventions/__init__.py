"""Intervention recipes: which entries to edit, found in the untouched pass."""
