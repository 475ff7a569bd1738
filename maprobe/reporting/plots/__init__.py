"""Pictures of what was measured, drawn from a report's plain data. matplotlib is imported inside functions alone."""
