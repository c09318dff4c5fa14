"""The verb `jobs`: what a launch or a sweep is doing, from any shell, after whoever launched it has gone."""
