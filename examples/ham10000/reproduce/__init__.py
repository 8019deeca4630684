"""The tables and figures of the paper: their rows, their runs, and what came out beside them."""
