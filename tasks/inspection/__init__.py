"""The inspection pages: what is shown (views), read from the stages, and drawn."""
