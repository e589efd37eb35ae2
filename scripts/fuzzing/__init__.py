"""What `scripts/fuzz` runs: the tests in `tests/fuzz`, one file after the other, each in a process that is measured."""
