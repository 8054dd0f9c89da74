"""What an answer rests on, sentence by sentence: passes over it that are blind to one part each."""
