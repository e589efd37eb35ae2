"""What people and other programs see of a run; nothing depends on any of it.

On the screen: ``display``, ``summary``, ``replay_report``; ``results`` on stdout; ``console`` what is typed. Beside it
(``views``): ``registries`` and the log file as OpenMSIStream writes them, ``heartbeats`` and ``log_topic`` on Kafka.
"""
