"""Extractors that come with the program: plain functions ``(datafile) -> dict``, to use or to copy from.

Each module stands for itself. What an extractor returns must be what JSON can say; a reason why a file has no
metadata is best raised as a ``ValueError`` that says what is wrong and where: it becomes the dead letter's text.
"""
