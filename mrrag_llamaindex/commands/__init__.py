"""The commands of ``mrrag``, thin over the folders of the package."""
