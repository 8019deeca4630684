"""From a folder on disk to batches: download, check, index, split, decode, augment."""
