"""Turn data files that stream through Kafka into metadata, with one Python function.

Users import from here: subclass :class:`MetadataJSONReproducer`, or write a plain function that takes a
:class:`DataFile` and returns a dictionary.
"""

from ray_reproducer.core.errors import (
    BrokerError,
    ConfigurationError,
    ExtractorError,
    FencedError,
    PipelineError,
    ReproducerError,
)
from ray_reproducer.data_file import DataFile
from ray_reproducer.reproducer import MetadataJSONReproducer

__version__ = "0.1.0"

__all__ = [
    "BrokerError",
    "ConfigurationError",
    "DataFile",
    "ExtractorError",
    "FencedError",
    "MetadataJSONReproducer",
    "PipelineError",
    "ReproducerError",
    "__version__",
]
