"""Preparation: sources to examples that both models can read, in memory or as shards on disk."""

from tide.preparation.answers import NO_CHUNK, AlignedAnswers, align_answers
from tide.preparation.directory import rejects_in
from tide.preparation.examples import cross_tokenizer_examples, same_tokenizer_examples
from tide.preparation.prepare import prepare
from tide.preparation.sides import Side, read_pairs
from tide.preparation.tokenizers import Tokenizers, check_embeddings, check_shared_ids, load_tokenizers
from tide.preparation.training_data import TrainingData, held_out_examples, training_data

__all__ = [
    "NO_CHUNK",
    "AlignedAnswers",
    "Side",
    "Tokenizers",
    "TrainingData",
    "align_answers",
    "check_embeddings",
    "check_shared_ids",
    "cross_tokenizer_examples",
    "held_out_examples",
    "load_tokenizers",
    "prepare",
    "read_pairs",
    "rejects_in",
    "same_tokenizer_examples",
    "training_data",
]
