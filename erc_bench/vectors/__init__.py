"""A vector for every utterance: of a fine-tuned or frozen encoder, or from a file.

:func:`utterance_vectors` returns them. Any method may read them; :class:`VectorMethod` is the base
class of those that do.
"""

from erc_bench.vectors.config import OF_A_FILE, FeatureConfig
from erc_bench.vectors.files import Encoded, VectorFile, read_vectors
from erc_bench.vectors.method import VectorMethod, VectorMethodConfig
from erc_bench.vectors.utterance_vectors import (
    Vectors,
    encoder_folder,
    utterance_vectors,
    vector_size,
    vectors_identity,
)

__all__ = [
    "OF_A_FILE",
    "Encoded",
    "FeatureConfig",
    "VectorFile",
    "VectorMethod",
    "VectorMethodConfig",
    "Vectors",
    "encoder_folder",
    "read_vectors",
    "utterance_vectors",
    "vector_size",
    "vectors_identity",
]
