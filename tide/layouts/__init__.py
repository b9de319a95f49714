"""Layouts: the input of a forward pass, with its attention mask and the rows that count."""

from tide.layouts.inputs import batch_layouts, noised_layout, text_layout

__all__ = ["batch_layouts", "noised_layout", "text_layout"]
