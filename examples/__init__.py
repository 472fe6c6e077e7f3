"""Uses of the packages; nothing in them imports from here."""
