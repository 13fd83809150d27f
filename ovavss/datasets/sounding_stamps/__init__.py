"""Real pictures with their own sounds on photo backgrounds."""
