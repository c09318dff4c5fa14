"""What a training step needs of a device's memory, and the settings that fit it."""
