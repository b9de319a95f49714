"""Preparation: sources to examples that both models can read, in memory or as shards on disk."""

from tide.preparation.examples import cross_tokenizer_examples, same_tokenizer_examples
from tide.preparation.prepare import prepare
from tide.preparation.sides import (
    NO_CHUNK,
    AlignedAnswer,
    Dropped,
    Side,
    align_answers,
    chunk_ids,
    read_pairs,
)
from tide.preparation.tokenizers import Tokenizers, check_embeddings, check_shared_ids, load_tokenizers
from tide.preparation.training_data import TrainingData, held_out_examples, training_data

__all__ = [
    "NO_CHUNK",
    "AlignedAnswer",
    "Dropped",
    "Side",
    "Tokenizers",
    "TrainingData",
    "align_answers",
    "check_embeddings",
    "check_shared_ids",
    "chunk_ids",
    "cross_tokenizer_examples",
    "held_out_examples",
    "load_tokenizers",
    "prepare",
    "read_pairs",
    "same_tokenizer_examples",
    "training_data",
]
