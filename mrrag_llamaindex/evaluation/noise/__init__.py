"""The noise study."""
