"""Studies: arms that are compared on folds, each image tested once."""
