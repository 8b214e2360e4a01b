"""A vector for every utterance: of a fine-tuned or frozen encoder, or from a file.

:func:`utterance_vectors` is the one call; any method may read them.
"""

from erc_bench.vectors.config import FeatureConfig
from erc_bench.vectors.utterance_vectors import (
    Vectors,
    utterance_vectors,
    vector_size,
    vectors_identity,
)

__all__ = ["FeatureConfig", "Vectors", "utterance_vectors", "vector_size", "vectors_identity"]
