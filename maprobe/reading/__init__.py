"""From YAML text to probes and cases: the probe file format, version 1."""
