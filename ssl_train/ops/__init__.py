"""One operation a file: attention over crops of several sizes, drop path, packing."""
