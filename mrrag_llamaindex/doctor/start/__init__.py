"""The first hour: what a table of pairs and this machine say by themselves, and what comes next."""
