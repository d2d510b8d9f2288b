"""Is what is stored still what was stored? And if not, made so again."""
