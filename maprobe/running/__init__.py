"""Doing the work: checkpoints, discovery, inputs, hooks and passes. Imports torch and transformers."""
