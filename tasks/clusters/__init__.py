"""k-means and the hierarchy over workers: points, seeding, fits, balanced samples."""
