"""What files say of each other: atomic writing, digests, metric files, sidecars and pointers of weights."""
