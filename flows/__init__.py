"""What happens, in which order. Reads like the paper's figure."""
