"""Membership-inference attacks: arrays of any framework in, scores out; higher means more likely a member."""
