"""Models with a known mechanism built in, and twins that lack one part of it: what probes are shown to fail on."""
