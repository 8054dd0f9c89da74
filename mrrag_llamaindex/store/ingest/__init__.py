"""The way of pairs into a store: tables, views, admission, vectors; and the check of it."""
