"""How far an image agrees with repeated sampling, and how far from the truth it is where the truth is known."""
