"""Preparation: text rows to examples that both models can read."""

from tide.preparation.examples import cross_tokenizer_examples, same_tokenizer_examples

__all__ = ["cross_tokenizer_examples", "same_tokenizer_examples"]
