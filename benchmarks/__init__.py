"""Measurements of the product: ``python -m benchmarks.run``. ``docs/benchmarks.md`` says how they are made."""
