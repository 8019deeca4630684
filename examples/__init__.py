"""Runnable examples; the reference one is ``python -m examples.ham10000``."""
