"""From numbers to a word: statistics and verdict."""
