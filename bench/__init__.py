"""Benchmarks of recording: one file per question, seeded data, peers in the same run."""
