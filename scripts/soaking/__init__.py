"""`scripts/soak`: faults at random for as long as told, and a table of what came of them."""
