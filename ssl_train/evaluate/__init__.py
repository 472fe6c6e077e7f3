"""What a frozen backbone is worth: scores on labelled images."""
