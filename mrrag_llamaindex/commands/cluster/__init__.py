"""Options of commands whose work may be spread, and what they have in common."""
