"""The generators of the documents; only a checkout has them."""
