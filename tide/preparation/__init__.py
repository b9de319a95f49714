"""Preparation: sources to examples that both models can read, in memory or as shards on disk.

plan         sources -> mixture, tokenizers; the plan of the shards
sides        rows -> both sides, rendered and tokenized
answers      both sides -> aligned
examples     aligned -> examples, cut and filled
prepare      examples -> shards in a `directory`, with their `manifest`
training_data   shards, or the same in memory -> what a run trains on
"""

from tide.preparation.answers import NO_CHUNK, AlignedAnswers, align_answers
from tide.preparation.directory import ShardDirectory
from tide.preparation.examples import Built, ExampleBuilder
from tide.preparation.manifest import Manifest
from tide.preparation.plan import Preparation
from tide.preparation.prepare import prepare
from tide.preparation.sides import Side, read_pairs
from tide.preparation.tokenizers import Tokenizers, check_embeddings, check_shared_ids, load_tokenizers
from tide.preparation.training_data import TrainingData, held_out_examples, training_data

__all__ = [
    "NO_CHUNK",
    "AlignedAnswers",
    "Built",
    "ExampleBuilder",
    "Manifest",
    "Preparation",
    "ShardDirectory",
    "Side",
    "Tokenizers",
    "TrainingData",
    "align_answers",
    "check_embeddings",
    "check_shared_ids",
    "held_out_examples",
    "load_tokenizers",
    "prepare",
    "read_pairs",
    "training_data",
]
