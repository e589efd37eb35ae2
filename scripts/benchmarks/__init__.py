"""What `scripts/bench` runs: one workload, several programs, the same function, the same broker, the same clock."""
