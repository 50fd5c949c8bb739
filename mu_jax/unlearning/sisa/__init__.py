"""SISA: exact unlearning by an ensemble whose members see one shard of the data each, slice by slice."""
