"""Writing to disk so that nothing is lost, and reading without executing anything that was stored."""
