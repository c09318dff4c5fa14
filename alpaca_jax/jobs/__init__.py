"""The verb `jobs`: what a launch or a sweep is doing, from any shell, even after the launching process has ended."""
