"""Divergences between chunk likelihoods: CALM, Reverse CALM, Bernoulli KL, TIDAL on chunks."""

from tide_kernels.chunk_likelihood.op import chunk_likelihood

__all__ = ["chunk_likelihood"]
