"""How bad it can get: worst cases and imperfections of equal norm, what they do to each method, and where."""
