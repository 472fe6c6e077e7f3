"""What is taken out for good: the ledger, and the purge of files."""
