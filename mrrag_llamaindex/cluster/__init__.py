"""Long work on many processes and machines, by Ray, and what they write."""
