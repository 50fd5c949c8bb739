"""Experiments: each composes the packages below it into one `run(config, workdir)`."""
