"""The rules of the program, without any I/O: values in, values out.

Nothing in here imports ray, confluent_kafka or hydra, opens a file or reads a clock.
"""
