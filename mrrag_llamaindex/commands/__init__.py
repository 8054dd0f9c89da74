"""The commands of ``mrrag``, thin over the rooms of the package."""
