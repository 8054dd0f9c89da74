"""What retrieval is worth on real questions: votes of retrieved pairs, by term and by weights."""
