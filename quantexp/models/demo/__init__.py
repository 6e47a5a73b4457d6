"""The embedded demo model: its checkpoint, training script and planted outliers."""
