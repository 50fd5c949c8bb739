"""How good an attack is, how close a model comes to retraining, and how sure we may be of either."""
