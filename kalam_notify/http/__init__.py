"""HTTP: posting changes, and what operators ask."""
