"""What measures and proves: run from the root of the checkout, `python -m tools.benchmark.decode`."""
