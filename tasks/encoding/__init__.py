"""Images to vectors, part by part, overlapped, and taken over from earlier runs."""
