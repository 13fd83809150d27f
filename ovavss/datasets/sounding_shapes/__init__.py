"""The synthetic world: drawn shapes with drawn sounds."""
