"""Studies of training itself, which anyone can run: how methods collapse, and when they are unstable."""
