"""Many scans with one command: which, where in them, drawn by any number of processes, and a table of all results."""
