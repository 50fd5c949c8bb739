"""Adversarial examples: PGD and FGSM in pixel space, the search for the smallest ε, and sets of them on disk."""
