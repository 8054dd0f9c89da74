"""What speaks HTTP: routes, errors, guards, metrics."""
