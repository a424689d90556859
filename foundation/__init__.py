"""Floor 1: settings, clock, database, errors and logging. Imports nothing of the product above it."""
