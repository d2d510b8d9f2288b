"""How a registry is told who we are, one scheme a file."""
