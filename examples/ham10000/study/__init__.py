"""Does attention help: arms on folds, and what can be concluded."""
