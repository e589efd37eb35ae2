"""Turn data files that stream through Kafka into metadata, with one Python function.

Users import from here: subclass :class:`MetadataJSONReproducer`, or write a plain function that takes a
:class:`DataFile` and returns a dictionary.
"""
