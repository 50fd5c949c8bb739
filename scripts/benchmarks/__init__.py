"""What the benchmarks share: workers in processes of their own, interleaved rounds, tables and JSON rows."""
