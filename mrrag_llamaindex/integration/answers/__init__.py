"""One question asked and answered, with all that is known of it, as values and as a picture."""
