"""What a model would need, and whether this machine has it; nothing is loaded."""
