"""What people and other programs see of a run: the live display, the results on stdout, the summary at the end."""
