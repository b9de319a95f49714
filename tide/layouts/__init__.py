"""Layouts: the input of a forward pass, with its attention mask and the rows that count."""

from tide.layouts.block_diffusion import block_diffusion_layout, text_layout

__all__ = ["block_diffusion_layout", "text_layout"]
