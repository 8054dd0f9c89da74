"""Critical layers, found by blocking attention."""
