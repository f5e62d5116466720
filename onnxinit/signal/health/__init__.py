"""How signal and gradient fare: what is measured of every layer, and the verdict."""
