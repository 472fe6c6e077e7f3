"""Losses as functions of tensors, and the two ways of making a teacher's targets; one file each."""
