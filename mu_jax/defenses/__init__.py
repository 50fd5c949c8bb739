"""What the owner of a model may do against attacks: release less of its posteriors, or train it by DP-SGD."""
