"""The host's engines over an index: their options, tickets, citations and documents."""
