"""Distil small students by every kind of method on real text, through the `tide` command, and report it."""
