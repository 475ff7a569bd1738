"""Measurement recipes: what to read from which sites, and how to fold it into numbers."""
