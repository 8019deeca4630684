"""The tables and figures of the paper, and runs against each other."""
