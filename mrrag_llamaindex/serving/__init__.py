"""The server: one loaded model and store behind HTTP, for many users at once."""
