"""Code that several ops use: argument checks, backend selection, row blocks, common formulas."""
