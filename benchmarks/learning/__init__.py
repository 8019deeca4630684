"""Which rate the gates of swapped-in blocks want: trials on folds of real images."""
